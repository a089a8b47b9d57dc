"""Turn rows into token ids: truncated by count, never in silence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from peftkit.schema import Task, UserError

STSB_STEP = 0.2  # T5 paper, section 2.4: scores are rounded to the nearest increment of 0.2 and written as text


@dataclass(frozen=True)
class Encoded:
    """Token ids of one split; `lengths` are in tokens after truncation, `truncated` counts the rows that lost some.

    `labels` (rows,) are class ids, or numbers where the task is a regression. `has_label` (rows,) is False where a
    label is hidden: there stands -1, or NaN, which is no label.
    """

    rows: Dataset
    lengths: list[int]
    truncated: int
    labels: np.ndarray
    has_label: np.ndarray


@dataclass(frozen=True)
class LabelWords:
    """What a text-to-text model writes for each label: token ids (labels, tokens), padded with -100, and the values.

    `values` are class ids, or the numbers that the words spell where the task is a regression.
    """

    ids: np.ndarray
    values: np.ndarray
    words: list[str]


def encode(rows: Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, separator: str | None = None) -> Encoded:
    """Tokenise one text or a pair a row for a classifier, at most `task.max_length` tokens.

    A tokenizer that has no pair format of its own (GPT-2) gets both texts joined by `separator`.
    """
    columns = list(task.text)

    def tokens(batch: dict[str, list]) -> dict[str, Any]:
        texts = [batch[column] for column in columns]
        if separator is not None:
            texts = [[separator.join(parts) for parts in zip(*texts, strict=True)]]
        return _truncate(tokenizer, texts, task.max_length)

    return _encoded(rows.map(tokens, batched=True, keep_in_memory=True), columns)


def encode_text_to_text(rows: Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, words: LabelWords) -> Encoded:
    """Tokenise `task.template` and the label's word (T5 paper, section 2.4 and appendix D)."""
    columns = list(task.text)
    template = task.template or f"{task.name} " + " ".join(f"{column}: {{{column}}}" for column in columns)
    targets = [[int(token) for token in row if token >= 0] for row in words.ids]

    def tokens(batch: dict[str, list]) -> dict[str, Any]:
        texts = [
            template.format(**dict(zip(columns, values, strict=True)))
            for values in zip(*(batch[column] for column in columns), strict=True)
        ]
        out = _truncate(tokenizer, [texts], task.max_length)
        # the target of a hidden label is never read
        out["labels"] = [targets[0 if label is None else _nearest(words, label)] for label in batch["label"]]
        return out

    return _encoded(rows.map(tokens, batched=True, keep_in_memory=True), columns)


def label_words(task: Task, names: list[str] | None, tokenizer: PreTrainedTokenizerBase) -> LabelWords:
    """Return the words over which a text-to-text model is scored; a regression writes 0.0, 0.2 ... 5.0."""
    if names is None:
        values = np.round(np.arange(0, 5 + STSB_STEP / 2, STSB_STEP), 1)
        words = [f"{value:.1f}" for value in values]
    else:
        values, words = np.arange(len(names)), list(names)
    ids = [tokenizer(text_target=word)["input_ids"] for word in words]
    if len({tuple(row) for row in ids}) < len(ids):
        raise UserError("two labels have the same tokens in this tokenizer; set task.labels to words that differ")
    longest = max(len(row) for row in ids)
    return LabelWords(np.array([row + [-100] * (longest - len(row)) for row in ids]), values, words)


def _nearest(words: LabelWords, label: float) -> int:
    if not words.values.min() <= label <= words.values.max():
        raise UserError(
            f"label {label} is outside 0 to 5, the scores that a text-to-text model writes; "
            "rescale it, or try model=bert or model=gpt2"
        )
    return int(np.abs(words.values - label).argmin())


def _truncate(tokenizer: PreTrainedTokenizerBase, texts: list[list[str]], max_length: int) -> dict[str, Any]:
    """Tokenise and mark the rows that are cut: only those are tokenised a second time."""
    tokenizer_limit = tokenizer.model_max_length
    out = dict(tokenizer(*texts, verbose=False))
    limit = min(max_length, tokenizer_limit)
    cut = [len(ids) > limit for ids in out["input_ids"]]
    for row in (number for number, is_cut in enumerate(cut) if is_cut):
        short = tokenizer(*(column[row] for column in texts), truncation=True, max_length=limit)
        for key, ids in short.items():
            out[key][row] = ids
    out["truncated"] = cut
    return out


def _encoded(rows: Dataset, columns: list[str]) -> Encoded:
    said = list(rows["label"])
    has_label = np.array([label is not None for label in said], dtype=bool)
    hidden = math.nan if rows.features["label"].dtype == "float64" else -1
    labels = np.array([hidden if label is None else label for label in said])
    truncated = sum(rows["truncated"])
    lengths = [len(ids) for ids in rows["input_ids"]]
    rows = rows.rename_column("label", "labels") if "labels" not in rows.column_names else rows.remove_columns("label")
    return Encoded(rows.remove_columns(["id", "truncated", *columns]), lengths, truncated, labels, has_label)
