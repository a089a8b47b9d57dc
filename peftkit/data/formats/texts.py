"""Turn texts into token ids for a model that writes, and its likelihoods and its own words into answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from peftkit.data.collate import padded_pairs
from peftkit.data.formats.format import Answers, Encoded, labelled, tokenize
from peftkit.schema import Task

ANSWER_TOKENS = 64  # the longest label, where task.max_target_length says nothing


@dataclass(frozen=True)
class Texts:
    """Causal language modelling and text to text.

    A decoder without a label column models its text, token by token; with one, the label after the text, and only the
    label counts. An encoder-decoder reads the text and writes the label. The text is `task.template`, else the
    columns with a line break between.
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    is_decoder: bool
    names = None
    reads = "likelihoods"
    words = None

    @property
    def writes(self) -> int | None:
        return None if self.task.label is None else self.task.max_target_length or ANSWER_TOKENS

    def encode(self, rows: Dataset) -> Encoded:
        """Tokenise at most `task.max_length` tokens of text and `task.max_target_length` of label.

        `places` are the tokens that count, and the prompt (tokens,) that is to be answered.
        """
        columns, said = list(self.task.text), list(rows["label"])
        values = zip(*(rows[column] for column in columns), strict=True)
        texts = [self._text(dict(zip(columns, row, strict=True))) for row in values]
        if self.is_decoder and self.writes is not None:
            # the end of a prompt is where the model goes on from, and what it writes takes places too
            room = min(self.task.max_length, self.tokenizer.model_max_length - self.writes)
            whole = self.tokenizer(texts, verbose=False)["input_ids"]
            read, cut = [ids[-room:] for ids in whole], np.array([len(ids) > room for ids in whole])
        else:
            prompts = tokenize(self.tokenizer, [texts], self.task.max_length)
            read, cut = prompts["input_ids"], np.array(prompts["truncated"])
        if self.writes is None:
            counted = [[place > 0 for place in range(len(row))] for row in read]  # nothing comes before the first token
            return _encoded(rows, read, read, read, counted, cut, np.ones(len(said), dtype=bool))
        answers = [self._answer_ids("" if label is None else label) for label in said]
        cut |= np.array([len(ids) > self.writes for ids in answers])
        return encoded_pairs(rows, read, [ids[: self.writes] for ids in answers], cut, self.is_decoder)

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return padded_pairs(self.tokenizer)

    def cut(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return the log-likelihoods (tokens,) of the tokens that count."""
        return [row[: len(seen)][seen] for row, (seen, _) in zip(scores, encoded.places, strict=True)]

    def answer(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Answers:
        known = encoded.has_label  # what was put in a hidden label's place says nothing
        nats = np.where(known, [-row.sum() for row in scores], 0.0)
        tokens = np.where(known, [len(row) for row in scores], 0)
        summary = [np.array(pair if is_known else []) for is_known, *pair in zip(known, nats, tokens, strict=True)]
        predictions = nats / np.maximum(tokens, 1) if texts is None else texts
        return Answers(predictions, summary, (nats, tokens))

    def told(self, prediction: Any) -> Any:
        return float(prediction) if self.writes is None else prediction

    def counts(self, encoded: Encoded) -> dict[str, Any]:
        counted = zip(encoded.has_label, encoded.places, strict=True)
        found = {"tokens": int(sum(seen.sum() for is_known, (seen, _) in counted if is_known))}
        hidden = int((~encoded.has_label).sum())
        return found | ({"hidden": hidden} if hidden else {})

    def _text(self, values: dict[str, str]) -> str:
        if self.task.template is not None:
            return self.task.template.format(**values)
        text = "\n".join(values.values())
        return f"{text}\n" if self.is_decoder and self.writes is not None else text

    def _answer_ids(self, label: str) -> list[int]:
        """Return a label's tokens, and the end of text after them."""
        if not self.is_decoder:
            return list(self.tokenizer(text_target=label)["input_ids"])
        return [*self.tokenizer(label, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]


def encoded_pairs(
    rows: Dataset, read: list[list[int]], answers: list[list[int]], cut: Sequence[bool] | np.ndarray, is_decoder: bool
) -> Encoded:
    """Return rows as what is read and the answers to it, of which alone a model learns."""
    inputs, targets = read, answers
    if is_decoder:
        inputs = [[*row, *ids] for row, ids in zip(read, answers, strict=True)]
        targets = [[-100] * len(row) + ids for row, ids in zip(read, answers, strict=True)]
    counted = [[token >= 0 for token in row] for row in targets]
    return _encoded(rows, read, inputs, targets, counted, np.asarray(cut), labelled(rows))


def _encoded(
    rows: Dataset,
    read: list[list[int]],
    inputs: list[list[int]],
    targets: list[list[int]],
    counted: list[list[bool]],
    cut: np.ndarray,
    known: np.ndarray,
) -> Encoded:
    masks = [[1] * len(row) for row in inputs]
    table = Dataset.from_dict({"input_ids": inputs, "attention_mask": masks, "labels": targets})
    labels = [None if label is None else [label] for label in rows["label"]]
    places = list(zip(map(np.array, counted), read, strict=True))
    return Encoded(table, [len(row) for row in inputs], int(cut.sum()), labels, known, None, places)
