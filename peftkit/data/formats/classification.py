"""Sequence classification and regression with a head on one vector of the input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.data.formats.base import Encoded, Format, Predictions, label_mask, tokenize, tokenize_column
from peftkit.data.labels import SequenceLabelReader


@dataclass(frozen=True)
class SequenceClassificationFormat(Format):
    """Sequence classification, and regression where `names` is None."""

    reader = SequenceLabelReader

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize at most `task.max_length` tokens an example."""
        columns = list(self.task.text)

        def tokens(batch: dict[str, list]) -> dict[str, Any]:
            texts = [batch[column] for column in columns]
            if self.is_decoder:  # GPT-2 has no format for a pair of texts
                texts = [["\n".join(parts) for parts in zip(*texts, strict=True)]]
            return tokenize(self.tokenizer, texts, self.task.max_length)

        out, inputs = tokenize_column(examples, columns, tokens)
        labels = label_array(examples)
        inputs = inputs.add_column("labels", labels.tolist())
        lengths = [len(ids) for ids in out["input_ids"]]
        return Encoded(inputs, lengths, sum(out["truncated"]), labels, label_mask(examples))

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        logits = np.stack(scores)
        return Predictions(logits[:, 0] if self.names is None else logits.argmax(axis=-1), scores)


def label_array(examples: Dataset) -> np.ndarray:
    """Return class ids or numbers (examples,); -1 or NaN where the label is hidden."""
    hidden = math.nan if examples.features["label"].dtype == "float64" else -1
    return np.array([hidden if label is None else label for label in examples["label"]])
