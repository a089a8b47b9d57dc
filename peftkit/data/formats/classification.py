"""Turn one text or a pair into token ids for a classifier or a regressor, and its logits into classes or numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from peftkit.config import TaskConfig
from peftkit.data.collate import padding_collator
from peftkit.data.formats.base import Encoded, Predictions, label_mask, tokenize


@dataclass(frozen=True)
class SequenceClassificationFormat:
    """Sequence classification, and regression where `names` is None.

    A tokenizer that has no pair format of its own (GPT-2) gets both texts joined by `separator`.
    """

    task: TaskConfig
    names: list[str] | None
    tokenizer: PreTrainedTokenizerBase
    separator: str | None = None
    output_kind = "logits"
    verbalizer_ids = None
    max_new_tokens = None

    def encode(self, rows: Dataset) -> Encoded:
        """Tokenise at most `task.max_length` tokens a row."""
        columns = list(self.task.text)

        def tokens(batch: dict[str, list]) -> dict[str, Any]:
            texts = [batch[column] for column in columns]
            if self.separator is not None:
                texts = [[self.separator.join(parts) for parts in zip(*texts, strict=True)]]
            return tokenize(self.tokenizer, texts, self.task.max_length)

        out = rows.map(tokens, batched=True, keep_in_memory=True)
        labels = label_array(rows)
        inputs = out.remove_columns(["id", "label", "truncated", *columns]).add_column("labels", labels.tolist())
        lengths = [len(ids) for ids in out["input_ids"]]
        return Encoded(inputs, lengths, sum(out["truncated"]), labels, label_mask(rows))

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return padding_collator(self.tokenizer)

    def unpad(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        return list(scores)

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        logits = np.stack(scores)
        return Predictions(logits[:, 0] if self.names is None else logits.argmax(axis=-1), scores)

    def describe(self, prediction: Any) -> Any:
        return float(prediction) if self.names is None else self.names[int(prediction)]

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        return count_labels(encoded, self.names)


def label_array(rows: Dataset) -> np.ndarray:
    """Return class ids or numbers (rows,); -1 or NaN where one is hidden."""
    hidden = math.nan if rows.features["label"].dtype == "float64" else -1
    return np.array([hidden if label is None else label for label in rows["label"]])


def count_labels(encoded: Encoded, names: list[str] | None) -> dict[str, Any]:
    """Count rows a class; numbers give their range and mean."""
    known = encoded.labels[encoded.has_label]
    hidden = int((~encoded.has_label).sum())
    found: dict[str, Any] = {}
    if names is None and len(known):
        found = {"minimum": float(known.min()), "maximum": float(known.max()), "mean": float(known.mean())}
    elif names is not None:
        found = {name: int((known == number).sum()) for number, name in enumerate(names)}
    return found | ({"hidden": hidden} if hidden else {})
