"""Turn a row into T5's text-to-text form, and the likelihoods of the labels' words into classes or numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from peftkit.config import TaskConfig, UserError
from peftkit.data.collate import seq2seq_collator
from peftkit.data.formats.base import Encoded, Predictions, label_mask, tokenize
from peftkit.data.formats.classification import count_labels, label_array

STSB_STEP = 0.2  # T5 paper, section 2.4: scores are rounded to the nearest increment of 0.2 and written as text


class TextToTextFormat:
    """Classification and regression as text (T5 paper, section 2.4 and appendix D).

    `verbalizer_ids` holds the tokens (labels, tokens) of each label, padded with -100, and `values` the class ids, or the
    numbers 0.0, 0.2 ... 5.0 that the words spell where the task is a regression.
    """

    output_kind = "verbalizer"
    max_new_tokens = None

    def __init__(self, task: TaskConfig, names: list[str] | None, tokenizer: PreTrainedTokenizerBase) -> None:
        self.task, self.names, self.tokenizer = task, names, tokenizer
        if names is None:
            self.values = np.round(np.arange(0, 5 + STSB_STEP / 2, STSB_STEP), 1)
            words = [f"{value:.1f}" for value in self.values]
        else:
            self.values, words = np.arange(len(names)), list(names)
        ids = [tokenizer(text_target=word)["input_ids"] for word in words]
        if len({tuple(row) for row in ids}) < len(ids):
            raise UserError("two labels have the same tokens in this tokenizer; set task.labels to words that differ")
        longest = max(len(row) for row in ids)
        self.verbalizer_ids = np.array([row + [-100] * (longest - len(row)) for row in ids])

    def encode(self, rows: Dataset) -> Encoded:
        """Tokenise `task.template`, at most `task.max_length` tokens, and the label's word."""
        columns = list(self.task.text)
        template = text_to_text_template(self.task)
        targets = [[int(token) for token in row if token >= 0] for row in self.verbalizer_ids]

        def tokens(batch: dict[str, list]) -> dict[str, Any]:
            texts = [
                template.format(**dict(zip(columns, values, strict=True)))
                for values in zip(*(batch[column] for column in columns), strict=True)
            ]
            out = tokenize(self.tokenizer, [texts], self.task.max_length)
            # the target of a hidden label is never read
            out["labels"] = [targets[0 if label is None else self._nearest(label)] for label in batch["label"]]
            return out

        out = rows.map(tokens, batched=True, keep_in_memory=True)
        lengths = [len(ids) for ids in out["input_ids"]]
        inputs = out.remove_columns(["id", "label", "truncated", *columns])
        return Encoded(inputs, lengths, sum(out["truncated"]), label_array(rows), label_mask(rows))

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return seq2seq_collator(self.tokenizer)

    def unpad(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        return list(scores)

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        return Predictions(self.values[np.stack(scores).argmax(axis=-1)], scores)

    def describe(self, prediction: Any) -> Any:
        return float(prediction) if self.names is None else self.names[int(prediction)]

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        return count_labels(encoded, self.names)

    def _nearest(self, label: float) -> int:
        if not self.values.min() <= label <= self.values.max():
            raise UserError(
                f"label {label} is outside 0 to 5, the scores that a text-to-text model writes; "
                "rescale it, or try model=bert or model=gpt2"
            )
        return int(np.abs(self.values - label).argmin())


def text_to_text_template(task: TaskConfig) -> str:
    """Return the template by which T5 reads a task's rows (T5 paper, appendix D)."""
    return task.template or f"{task.name} " + " ".join(f"{name}: {{{name}}}" for name in task.text)
