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

MEGABATCH = 50  # batches that are sorted together, as in transformers' LengthGroupedSampler


class LengthGroupedSampler(Sampler[int]):
    """Shuffle examples so that each batch has examples of similar length.

    The class of this name in transformers uses the global generator, so the batches of a resumed run differ. Here the
    order of an epoch is a function of (seed, epoch) only.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = np.asarray(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return map(int, self.order(self.epoch))  # not a list, which takes 140 MB for 3.5 million examples

    def order(self, epoch: int) -> np.ndarray:
        """Return the indices (examples,) in the order of an epoch; only the last batch may be short."""
        random = np.random.default_rng([self.seed, epoch])
        indices = random.permutation(np.arange(len(self.lengths), dtype=np.int32))
        size = self.batch_size * MEGABATCH
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            indices[start : start + size] = part[np.argsort(-self.lengths[part], kind="stable")]
        full = len(indices) // self.batch_size * self.batch_size
        batches = random.permutation(indices[:full].reshape(-1, self.batch_size))
        return np.concatenate([batches.reshape(-1), indices[full:]])


def padding_waste(lengths: Sequence[int] | np.ndarray, order: np.ndarray, batch_size: int) -> float:
    """Return the share of padding tokens (0 to 1) when examples are batched in this order."""
    sizes = np.asarray(lengths)[order]
    cells = sum(len(part) * int(part.max()) for part in _chunks(sizes, batch_size))
    return float(1 - sizes.sum() / cells) if cells else 0.0


def padding_collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return a collator that pads to the longest example; on GPUs to a multiple of 8, for tensor cores."""
    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=_multiple())


def seq2seq_collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return a collator that pads inputs and labels, each to their own length."""
    return DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=_multiple(), label_pad_token_id=-100)


def token_label_collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return a collator that pads inputs and their token labels to the same length."""
    return DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=_multiple(), label_pad_token_id=-100)


def multi_text_collator(
    tokenizer: PreTrainedTokenizerBase, starts: Sequence[str]
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return a collator for examples of several texts, each padded separately and named by its prefix in `starts`.

    `texts` (examples, texts) numbers the texts of a batch: equal numbers mean equal token ids.
    """
    pad = padding_collator(tokenizer)

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        numbers: dict[tuple[int, ...], int] = {}
        batch: dict[str, Any] = {}
        for start in starts:
            inputs = [
                {n.removeprefix(start): example[n] for n in example if n.startswith(start)} for example in examples
            ]
            batch |= {start + name: values for name, values in pad(inputs).items()}
        ids = [[tuple(example[f"{start}input_ids"]) for start in starts] for example in examples]
        batch["texts"] = torch.tensor([[numbers.setdefault(text, len(numbers)) for text in row] for row in ids])
        return batch

    return collate


def preference_collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return a collator for TRL's DPOTrainer: all prompts with chosen answers, then all with rejected answers.

    `completion_mask` (2 x pairs, tokens) is 1 on the tokens of answers. Other columns are numbers, such as the
    log-likelihoods of the reference model.
    """
    pad = padding_collator(tokenizer)

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        inputs, sizes = [], []
        for name in ("chosen_ids", "rejected_ids"):
            inputs += [{"input_ids": [*example["prompt_ids"], *example[name]]} for example in examples]
            sizes += [(len(each["prompt_ids"]), len(each["prompt_ids"]) + len(each[name])) for each in examples]
        batch = dict(pad(inputs))
        mask = torch.zeros_like(batch["input_ids"])
        batch["attention_mask"] = torch.zeros_like(
            mask
        )  # by length, since the pad token may equal the end-of-text token
        for index, (start, end) in enumerate(sizes):
            mask[index, start:end] = 1
            batch["attention_mask"][index, :end] = 1
        batch["completion_mask"] = mask
        for name in examples[0].keys() - {"prompt_ids", "chosen_ids", "rejected_ids"}:
            batch[name] = torch.tensor([example[name] for example in examples])
        return batch

    return collate


def stack_blocks(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a batch of packed blocks; with a cache or a mask, transformers ignores the borders of examples."""
    return {name: torch.tensor([block[name] for block in blocks]) for name in blocks[0]} | {"use_cache": False}


def _multiple() -> int | None:
    return 8 if torch.cuda.is_available() else None


def _chunks(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
