"""The base class of formats, with the model inputs of a split and the predictions from model outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from peftkit.config import TaskConfig, UserError
from peftkit.data.answer_format import AnswerFormat
from peftkit.data.collate import padding_collator
from peftkit.data.datasets import ExampleReader


@dataclass(frozen=True)
class Encoded:
    """Model inputs of one split, with the labels and counts for metrics and audits.

    Args:
        inputs: one entry for each model input; a long example may have several.
        lengths: (inputs,) tokens of each input after truncation.
        truncated: the number of truncated examples.
        labels: (examples,) labels as the metrics read them; -1, NaN or None where the label is hidden.
        has_label: (examples,) False where the label is hidden.
        example_of: (inputs,) the example of each input; None where each example is one input.
        positions: data of each input for `decode`, documented by the `encode` of each format.
        answer_formats: (examples,) the expected format of the answer.
        dropped_shots: few-shot examples that did not fit, over the whole split.
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
    """The prediction for each example, with the type of the labels, and the scores that it was computed from.

    Args:
        predictions: (examples,) values of the same type as the labels.
        scores: an array for each example, which may be empty.
        likelihoods: of generative models, nats (examples,) of the labels and their tokens, 0 where hidden.
        follows_format: (examples,) of instructions, 1 where an answer has the format of its references, else 0.
        has_ended: of generated texts, False where the length limit ended them.
    """

    predictions: Any
    scores: list[np.ndarray]
    likelihoods: tuple[np.ndarray, np.ndarray] | None = None
    follows_format: np.ndarray | None = None
    has_ended: list[bool] | None = None


@dataclass(frozen=True)
class Format:
    """How the examples of one kind of task are encoded for one architecture, and how its outputs are decoded.

    The record of a kind (config/kinds.py) names its format classes. Subclasses define `encode` and `decode`, and
    override what differs: `output_kind` selects how outputs become scores (logits, verbalizer, spans, likelihoods,
    masked, preferences or vectors); `reader` reads the examples of the kind from tables.
    """

    task: TaskConfig
    tokenizer: PreTrainedTokenizerBase
    architecture: str = "encoder"
    names: list[str] | None = None
    reader: ClassVar[type[ExampleReader]] = ExampleReader
    stop_text: ClassVar[str] = ""  # ends a generated answer after few-shot examples

    @property
    def is_decoder(self) -> bool:
        return self.architecture == "decoder"

    @property
    def output_kind(self) -> str:
        return "logits"

    @property
    def verbalizer_ids(self) -> np.ndarray | None:
        """The token ids (labels, tokens) that a text-to-text model chooses between, padded with -100."""
        return None

    @property
    def max_new_tokens(self) -> int | None:
        """The most tokens that are generated for an answer; None where scores alone give the prediction."""
        return None

    def encode(self, examples: Dataset) -> Encoded:
        raise NotImplementedError

    def encode_training(self, examples: Dataset, seed: int) -> Encoded:
        """Encode the examples to train on; formats that pack or corrupt text override this."""
        return self.encode(examples)

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return padding_collator(self.tokenizer)

    def unpad(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return the scores of each input without those of padding."""
        return list(scores)

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        """Return the predictions; `texts` holds the generated text of each example."""
        raise NotImplementedError

    def check_answers(self, answers: Predictions, has_ended: Sequence[bool], encoded: Encoded) -> Predictions:
        """Return the predictions, with `follows_format` where the kind checks the format of answers."""
        return answers

    def describe(self, prediction: Any) -> Any:
        """Return a prediction as users write it: names instead of class ids."""
        return float(prediction) if self.names is None else self.names[int(prediction)]

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        """Return counts of each class; of numbers their range and mean."""
        known = encoded.labels[encoded.has_label]
        counts: dict[str, Any] = {}
        if self.names is not None:
            counts = {name: int((known == number).sum()) for number, name in enumerate(self.names)}
        elif len(known):
            counts = {"minimum": float(known.min()), "maximum": float(known.max()), "mean": float(known.mean())}
        return counts | hidden_count(encoded)


def hidden_count(encoded: Encoded) -> dict[str, int]:
    """Return how many labels are hidden, nothing where none is."""
    hidden = int((~encoded.has_label).sum())
    return {"hidden": hidden} if hidden else {}


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[list[str]], max_length: int) -> dict[str, Any]:
    """Tokenize and mark truncated examples; only those are tokenized a second time."""
    out = dict(tokenizer(*texts, verbose=False))
    limit = min(max_length, tokenizer.model_max_length)
    out["truncated"] = [len(ids) > limit for ids in out["input_ids"]]
    for row in np.flatnonzero(out["truncated"]):
        short = tokenizer(*(column[row] for column in texts), truncation=True, max_length=limit)
        for key, ids in short.items():
            out[key][row] = ids
    return out


def tokenize_column(
    examples: Dataset, columns: Sequence[str], tokens: Callable[[dict[str, list]], dict[str, Any]]
) -> tuple[Dataset, Dataset]:
    """Return the examples with the tokens of each batch, and their model inputs alone."""
    out = examples.map(tokens, batched=True, keep_in_memory=True)
    return out, out.remove_columns(["id", "label", "truncated", *columns])


def label_mask(examples: Dataset) -> np.ndarray:
    """Return which examples have a label (examples,)."""
    return np.array([label is not None for label in examples["label"]], dtype=bool)


def prompt_room(max_length: int, context: int, max_new_tokens: int) -> int:
    """Return the tokens of a prompt that fit beside an answer of `max_new_tokens` into `context` tokens.

    Raises:
        UserError: there is no room for a prompt.
    """
    room = min(max_length, context - max_new_tokens)
    if room < 1:
        raise UserError(
            f"task.max_target_length={max_new_tokens} leaves no room for a prompt among the model's {context} tokens; "
            f"set task.max_target_length={max(1, context // 2)}"
        )
    return room
