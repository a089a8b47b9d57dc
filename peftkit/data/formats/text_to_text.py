"""Classification and regression as text, for encoder-decoder models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.config import TaskConfig, UserError
from peftkit.data.collate import seq2seq_collator
from peftkit.data.formats.base import Encoded, Format, Predictions, label_mask, tokenize, tokenize_column
from peftkit.data.formats.classification import label_array
from peftkit.data.labels import SequenceLabelReader

STSB_STEP = 0.2  # T5 paper, section 2.4: scores are rounded to the nearest increment of 0.2 and written as text


@dataclass(frozen=True)
class TextToTextFormat(Format):
    """Classification and regression as text (T5 paper, section 2.4 and appendix D).

    `values` holds the class ids, or the numbers 0.0, 0.2 ... 5.0 of a regression; `verbalizer_ids` their tokens.
    """

    reader = SequenceLabelReader
    output_kind = "verbalizer"

    @cached_property
    def values(self) -> np.ndarray:
        return similarity_scores() if self.names is None else np.arange(len(self.names))

    @cached_property
    def verbalizer_ids(self) -> np.ndarray:
        words = [f"{value:.1f}" for value in self.values] if self.names is None else self.names
        return pad_verbalizer([self.tokenizer(text_target=word)["input_ids"] for word in words], "task.labels")

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize `task.template`, at most `task.max_length` tokens, and the text of the label."""
        columns, template = list(self.task.text), text_to_text_template(self.task)
        targets = [[int(token) for token in row if token >= 0] for row in self.verbalizer_ids]

        def tokens(batch: dict[str, list]) -> dict[str, Any]:
            out = tokenize(self.tokenizer, [fill_template(template, columns, batch)], self.task.max_length)
            # the target of a hidden label is never read
            out["labels"] = [targets[0 if label is None else self._nearest(label)] for label in batch["label"]]
            return out

        out, inputs = tokenize_column(examples, columns, tokens)
        lengths = [len(ids) for ids in out["input_ids"]]
        return Encoded(inputs, lengths, sum(out["truncated"]), label_array(examples), label_mask(examples))

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return seq2seq_collator(self.tokenizer)

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        return Predictions(self.values[np.stack(scores).argmax(axis=-1)], scores)

    def _nearest(self, label: float) -> int:
        if not self.values.min() <= label <= self.values.max():
            raise UserError(
                f"label {label} is outside 0 to 5, the scores that a text-to-text model generates; "
                "rescale it, or use model=bert or model=gpt2"
            )
        return int(np.abs(self.values - label).argmin())


def similarity_scores() -> np.ndarray:
    """Return the numbers 0.0, 0.2 ... 5.0."""
    return np.round(np.arange(0, 5 + STSB_STEP / 2, STSB_STEP), 1)


def text_to_text_template(task: TaskConfig) -> str:
    """Return the input template of T5 (T5 paper, appendix D)."""
    return task.template or f"{task.name} " + " ".join(f"{name}: {{{name}}}" for name in task.text)


def fill_template(template: str, columns: list[str], batch: Any) -> list[str]:
    """Return the template filled with the columns of each example."""
    values = zip(*(batch[column] for column in columns), strict=True)
    return [template.format(**dict(zip(columns, row, strict=True))) for row in values]


def pad_verbalizer(ids: list[list[int]], key: str) -> np.ndarray:
    """Return token ids as an array (labels, tokens), padded with -100.

    Raises:
        UserError: two labels have the same tokens.
    """
    if len({tuple(row) for row in ids}) < len(ids):
        raise UserError(f"two labels have the same tokens in this tokenizer; set {key} to different words")
    longest = max(len(row) for row in ids)
    return np.array([row + [-100] * (longest - len(row)) for row in ids])
