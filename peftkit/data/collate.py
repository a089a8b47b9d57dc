"""Length-grouped sampling, and collators that pad to the longest example of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
)

MEGABATCH = 50  # batches that are sorted together: the same number as transformers' LengthGroupedSampler


class LengthGroupedSampler(Sampler[int]):
    """Shuffle rows so that each batch holds rows of like length.

    transformers has one of this name; its order comes from the global generator, so that a resumed run sees other
    batches than an unbroken one. Here an epoch's order is a function of (seed, epoch) alone.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = np.asarray(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return map(int, self.order(self.epoch))  # no list: that of 3.5 million rows takes 140 MB

    def order(self, epoch: int) -> np.ndarray:
        """Return the row numbers (rows,) in the order of that epoch; only its last batch may be short."""
        random = np.random.default_rng([self.seed, epoch])
        rows = random.permutation(np.arange(len(self.lengths), dtype=np.int32))
        size = self.batch_size * MEGABATCH
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            rows[start : start + size] = part[np.argsort(-self.lengths[part], kind="stable")]
        full = len(rows) // self.batch_size * self.batch_size
        batches = random.permutation(rows[:full].reshape(-1, self.batch_size))
        return np.concatenate([batches.reshape(-1), rows[full:]])


def padding_waste(lengths: Sequence[int] | np.ndarray, order: np.ndarray, batch_size: int) -> float:
    """Return the share of cells (0 to 1) that are padding when rows come in this order."""
    sizes = np.asarray(lengths)[order]
    cells = sum(len(part) * int(part.max()) for part in _chunks(sizes, batch_size))
    return float(1 - sizes.sum() / cells) if cells else 0.0


def padding_collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return what pads a list of encoded rows to its longest row, in multiples of 8 where tensor cores want it."""
    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=_multiple())


def seq2seq_collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return what pads texts and, to a length of their own, their labels."""
    return DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=_multiple(), label_pad_token_id=-100)


def token_label_collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return what pads texts and, alike, the labels of their tokens."""
    return DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=_multiple(), label_pad_token_id=-100)


def multi_text_collator(
    tokenizer: PreTrainedTokenizerBase, starts: Sequence[str]
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return what pads rows of several texts, the inputs of each named by a start of its own and padded by themselves.

    `texts` (rows, texts) numbers what stands in a batch: equal numbers are equal token ids.
    """
    pad = padding_collator(tokenizer)

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        numbers: dict[tuple[int, ...], int] = {}
        batch: dict[str, Any] = {}
        for start in starts:
            inputs = [{n.removeprefix(start): row[n] for n in row if n.startswith(start)} for row in rows]
            batch |= {start + name: values for name, values in pad(inputs).items()}
        ids = [[tuple(row[f"{start}input_ids"]) for start in starts] for row in rows]
        batch["texts"] = torch.tensor([[numbers.setdefault(text, len(numbers)) for text in row] for row in ids])
        return batch

    return collate


def preference_collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return what makes of pairs the batch that TRL's DPOTrainer reads: all chosen answers, then all rejected ones.

    Each stands after its prompt; `completion_mask` (2 x pairs, tokens) tells the tokens of answers. What else a row has
    are numbers, as those of the reference.
    """
    pad = padding_collator(tokenizer)

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        inputs, sizes = [], []
        for name in ("chosen_ids", "rejected_ids"):
            inputs += [{"input_ids": [*row["prompt_ids"], *row[name]]} for row in rows]
            sizes += [(len(row["prompt_ids"]), len(row["prompt_ids"]) + len(row[name])) for row in rows]
        batch = dict(pad(inputs))
        mask = torch.zeros_like(batch["input_ids"])
        batch["attention_mask"] = torch.zeros_like(mask)  # the pad token may be the one that ends an answer
        for place, (start, end) in enumerate(sizes):
            mask[place, start:end] = 1
            batch["attention_mask"][place, :end] = 1
        batch["completion_mask"] = mask
        for name in rows[0].keys() - {"prompt_ids", "chosen_ids", "rejected_ids"}:
            batch[name] = torch.tensor([row[name] for row in rows])
        return batch

    return collate


def stack_blocks(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a batch of packed blocks; with a cache, or with a mask, transformers would not tell texts apart."""
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]} | {"use_cache": False}


def _multiple() -> int | None:
    return 8 if torch.cuda.is_available() else None


def _chunks(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
