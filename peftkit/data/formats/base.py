"""Turn a task's rows into what a model reads, and what the model says back into what a user reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from peftkit.config import TaskConfig
from peftkit.data.answer_format import AnswerFormat


@dataclass(frozen=True)
class Encoded:
    """Model inputs of one split, and what they were made of.

    `inputs` holds one entry a model input, and `lengths` their tokens after truncation; `example_of` (inputs,) says which
    example each is of, where a long one has several. `labels`, one an example, are what metrics compare with;
    `has_label` (examples,) is False where one is hidden: there stands -1, NaN, or nothing, which is no label.
    `truncated` counts the examples that lost text. `positions`, one an input, says where its answers are, `answer_formats`, one an
    example, how an answer is to look. `dropped_shots` counts what was to be shown before a row (`shots`) and did not fit,
    over all rows.
    """

    inputs: Dataset
    lengths: Sequence[int] | np.ndarray
    truncated: int
    labels: Any
    has_label: np.ndarray
    example_of: np.ndarray | None = None
    positions: list[Any] = field(default_factory=list)
    answer_formats: list[AnswerFormat] = field(default_factory=list)
    dropped_shots: int = 0

    @property
    def tokens(self) -> int:
        """The tokens of all inputs."""
        return int(np.sum(self.lengths, dtype=np.int64))


@dataclass(frozen=True)
class Predictions:
    """What a model says of each example: a prediction in the form of the labels, and the scores it came from.

    `scores` has an array an example, an empty one where there is nothing to tell. `likelihoods`, of models that write
    text, holds the nats (examples,) that the labels cost, and the tokens (examples,) that they have, 0 of a hidden one.
    `has_ended`, of the same, tells of each text whether it ended by itself, and not for its length.
    `follows_format`, of instructions, holds 1 for an answer (examples,) that has the form of its references, else 0.
    """

    predictions: Any
    scores: list[np.ndarray]
    likelihoods: tuple[np.ndarray, np.ndarray] | None = None
    follows_format: np.ndarray | None = None
    has_ended: list[bool] | None = None


class Format(Protocol):
    """How one kind of task is put to one family of models.

    `output_kind` names how a model's output becomes scores: logits, verbalizer, spans, likelihoods, masked, preferences or
    vectors. `verbalizer_ids` are
    the token ids (labels, tokens) between which a text-to-text model chooses. `max_new_tokens` is the longest text, in tokens,
    that is to be generated to answer; None where the scores say all.
    """

    @property
    def task(self) -> TaskConfig: ...

    @property
    def names(self) -> list[str] | None: ...

    @property
    def output_kind(self) -> str: ...

    @property
    def verbalizer_ids(self) -> np.ndarray | None: ...

    @property
    def max_new_tokens(self) -> int | None: ...

    def encode(self, rows: Dataset) -> Encoded: ...

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]: ...

    def unpad(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return the scores of each input without those of padding."""
        ...

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        """Return the answers to examples; `texts` is what the model wrote, one an example."""
        ...

    def describe(self, prediction: Any) -> Any:
        """Return a prediction as users write it: names for class ids."""
        ...

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        """Return how many labels there are of each sort."""
        ...


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[list[str]], max_length: int) -> dict[str, Any]:
    """Tokenise and mark the rows that are cut: only those are tokenised a second time."""
    out = dict(tokenizer(*texts, verbose=False))
    limit = min(max_length, tokenizer.model_max_length)
    cut = [len(ids) > limit for ids in out["input_ids"]]
    for row in (number for number, is_cut in enumerate(cut) if is_cut):
        short = tokenizer(*(column[row] for column in texts), truncation=True, max_length=limit)
        for key, ids in short.items():
            out[key][row] = ids
    out["truncated"] = cut
    return out


def label_mask(rows: Dataset) -> np.ndarray:
    """Tell which rows have a label (rows,)."""
    return np.array([label is not None for label in rows["label"]], dtype=bool)
