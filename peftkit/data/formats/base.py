"""Turn a task's rows into what a model reads, and what the model says back into what a user reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from peftkit.config import TaskConfig
from peftkit.data.answer_format import Form


@dataclass(frozen=True)
class Encoded:
    """Model inputs of one split, and what they were made of.

    `rows` holds one entry a model input, and `lengths` their tokens after truncation; `owner` (inputs,) says which
    example each is of, where a long one has several. `labels`, one an example, are what metrics compare with;
    `has_label` (examples,) is False where one is hidden: there stands -1, NaN, or nothing, which is no label.
    `truncated` counts the examples that lost text. `places`, one an input, says where its answers are, `forms`, one an
    example, how an answer is to look. `left_out` counts what was to be shown before a row (`shots`) and did not fit,
    over all rows.
    """

    rows: Dataset
    lengths: Sequence[int] | np.ndarray
    truncated: int
    labels: Any
    has_label: np.ndarray
    owner: np.ndarray | None = None
    places: list[Any] = field(default_factory=list)
    forms: list[Form] = field(default_factory=list)
    left_out: int = 0

    @property
    def tokens(self) -> int:
        """The tokens of all inputs."""
        return int(np.sum(self.lengths, dtype=np.int64))


@dataclass(frozen=True)
class Answers:
    """What a model says of each example: a prediction in the form of the labels, and the scores it came from.

    `scores` has an array an example, an empty one where there is nothing to tell. `likelihoods`, of models that write
    text, holds the nats (examples,) that the labels cost, and the tokens (examples,) that they have, 0 of a hidden one.
    `has_ended`, of the same, tells of each text whether it ended by itself, and not for its length.
    `in_form`, of instructions, holds 1 for an answer (examples,) that has the form of its references, else 0.
    """

    predictions: Any
    scores: list[np.ndarray]
    likelihoods: tuple[np.ndarray, np.ndarray] | None = None
    in_form: np.ndarray | None = None
    has_ended: list[bool] | None = None


class Format(Protocol):
    """How one kind of task is put to one family of models.

    `reads` names how a model's output becomes scores: logits, words, spans, likelihoods, masked, preferences or
    vectors. `words` are
    the token ids (labels, tokens) between which a text-to-text model chooses. `writes` is the longest text, in tokens,
    that is to be generated to answer; None where the scores say all.
    """

    @property
    def task(self) -> TaskConfig: ...

    @property
    def names(self) -> list[str] | None: ...

    @property
    def reads(self) -> str: ...

    @property
    def words(self) -> np.ndarray | None: ...

    @property
    def writes(self) -> int | None: ...

    def encode(self, rows: Dataset) -> Encoded: ...

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]: ...

    def cut(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return the scores of each input without those of padding."""
        ...

    def answer(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Answers:
        """Return the answers to examples; `texts` is what the model wrote, one an example."""
        ...

    def told(self, prediction: Any) -> Any:
        """Return a prediction as users write it: names for class ids."""
        ...

    def counts(self, encoded: Encoded) -> dict[str, Any]:
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


def labelled(rows: Dataset) -> np.ndarray:
    """Tell which rows have a label (rows,)."""
    return np.array([label is not None for label in rows["label"]], dtype=bool)
