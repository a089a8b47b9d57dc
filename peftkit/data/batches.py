"""Batches of streamed texts, packing into blocks, and collators."""

import random
import zlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq

Item = TypeVar("Item")


def batch_by_characters(
    items: Iterable[Item], characters: int, count: int, text_of: Callable[[Item], str]
) -> Iterator[list[Item]]:
    """Yield batches that end at `characters` characters or `count` items; the longest text bounds the memory."""
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(text_of(item))
        if size >= characters or len(batch) >= count:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# trl.pack_dataset does not replace this: it packs each batch of `map` by itself, breaks ties by an unstable sort,
# and leaves padding, position ids and the labels of first tokens to its own collator.
def best_fit_decreasing(lengths: Sequence[int], block_size: int) -> list[list[int]]:
    """Return the example indices of each block: longest first, each into the fullest block it fits (Ding et al. 2024).

    Ties go to the earlier example and the later block, so the result is deterministic.
    """
    blocks: list[list[int]] = []
    free: list[tuple[int, int]] = []  # remaining tokens and index of each block, sorted
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        slot = bisect_left(free, (lengths[index], -1))
        left, number = free.pop(slot) if slot < len(free) else (block_size, len(blocks))
        if number == len(blocks):
            blocks.append([])
        blocks[number].append(index)
        insort(free, (left - lengths[index], number))
    return blocks


def pack_examples(examples: Dataset, block_size: int, fill: int) -> tuple[Dataset, list[int]]:
    """Return examples (input_ids, labels) as blocks of `block_size` tokens, and the length of each without padding.

    The first token of an example and the padding have no label.
    """
    inputs, targets = list(examples["input_ids"]), list(examples["labels"])
    members = best_fit_decreasing([len(ids) for ids in inputs], block_size)
    columns = fill_blocks([[inputs[index] for index in each] for each in members], block_size, fill)
    labels = fill_blocks([[[-100, *targets[index][1:]] for index in each] for each in members], block_size, -100)[
        "input_ids"
    ]
    return Dataset.from_dict({**columns, "labels": labels}), [sum(len(inputs[i]) for i in each) for each in members]


def fill_blocks(blocks: Sequence[Sequence[Sequence[int]]], block_size: int, fill: int) -> dict[str, list[list[int]]]:
    """Join the texts of each block, and pad it; position ids restart with each text, which separates attention."""
    tokens = [[token for ids in block for token in ids] for block in blocks]
    positions = [[position for ids in block for position in range(len(ids))] for block in blocks]
    return {
        "input_ids": [row + [fill] * (block_size - len(row)) for row in tokens],
        "position_ids": [row + [0] * (block_size - len(row)) for row in positions],
    }


def pack_in_order(texts: Sequence[list[int]], block_size: int, fill: int) -> dict[str, list[Any]]:
    """Return blocks of whole texts in their order, and the length of each without padding."""
    blocks: list[list[list[int]]] = []
    lengths: list[int] = []
    for text in texts:
        if not lengths or lengths[-1] + len(text) > block_size:
            blocks.append([])
            lengths.append(0)
        blocks[-1].append(text)
        lengths[-1] += len(text)
    return {**fill_blocks(blocks, block_size, fill), "length": lengths}


class BlockCollator(DataCollatorForSeq2Seq):
    """Stacks packed blocks; pads the inputs and the labels of other examples, each to their own length."""

    def __call__(self, features: list[dict[str, Any]], return_tensors: str | None = None) -> dict[str, Any]:
        if "position_ids" not in features[0]:
            return super().__call__(features, return_tensors)  # type: ignore[no-any-return]
        # with a cache or a mask, transformers ignores the boundaries of examples
        return {name: torch.tensor([block[name] for block in features]) for name in features[0]} | {"use_cache": False}


class CorruptedBlocks(torch.utils.data.Dataset):
    """Blocks with new noise in each epoch, a function of (seed, epoch, block), so that a resumed run repeats it."""

    def __init__(
        self, blocks: Dataset, corrupt: Callable[[Any, np.random.Generator], dict[str, Any]], seed: int
    ) -> None:
        self.blocks, self.corrupt, self.seed, self.epoch = blocks, corrupt, seed, 0

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, number: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, self.epoch, int(number)])
        return self.corrupt(self.blocks[int(number)], rng)


class SeededCollator:
    """A collator whose random numbers are a function of (seed, epoch, examples), so that a resumed run repeats them.

    It may use the global generators of random, numpy and torch; they are seeded for it, and restored after it.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]], seed: int) -> None:
        self.collate, self.seed, self.epoch = collate, seed, 0

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        seed = zlib.crc32(repr([self.seed, self.epoch, examples]).encode())
        states = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            batch = self.collate(examples)
        random.setstate(states[0])
        np.random.set_state(states[1])
        return batch


def padding_multiple(max_length: int) -> int | None:
    """Return what padded lengths are a multiple of: 8 on GPUs, for tensor cores.

    None where padding could exceed the model's positions, as with a limit of 492 tokens beside 20 virtual ones.
    """
    return 8 if torch.cuda.is_available() and max_length % 8 == 0 else None
