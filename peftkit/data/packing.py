"""Packing of whole examples into blocks with separate attention."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

from datasets import Dataset


# trl.pack_dataset does not replace this: it packs each batch of `map` by itself, breaks ties by an unstable sort,
# and leaves padding, position ids and the labels of first tokens to its own collator.
def best_fit_decreasing(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Return the example indices of each block: longest first, each where it leaves the least room (Ding et al. 2024).

    Ties go to the earlier example and the later block, so the result is deterministic.
    """
    blocks: list[list[int]] = []
    free: list[tuple[int, int]] = []  # room left and the number of the block, sorted
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        slot = bisect_left(free, (lengths[index], -1))
        left, number = free.pop(slot) if slot < len(free) else (room, len(blocks))
        if number == len(blocks):
            blocks.append([])
        blocks[number].append(index)
        insort(free, (left - lengths[index], number))
    return blocks


def pack_examples(examples: Dataset, room: int, fill: int) -> tuple[Dataset, list[int]]:
    """Return examples (input_ids, labels) as blocks of `room` tokens, and the length of each without padding.

    Position ids restart with each example, so that attention separates examples. The first token of an example and the
    padding have no label.
    """
    inputs, targets = list(examples["input_ids"]), list(examples["labels"])
    columns: dict[str, list[Any]] = {"input_ids": [], "position_ids": [], "labels": []}
    sizes = []
    for members in best_fit_decreasing([len(ids) for ids in inputs], room):
        ids = [token for index in members for token in inputs[index]]
        empty = room - len(ids)
        sizes.append(len(ids))
        columns["input_ids"].append(ids + [fill] * empty)
        columns["position_ids"].append([at for index in members for at in range(len(inputs[index]))] + [0] * empty)
        columns["labels"].append([token for index in members for token in (-100, *targets[index][1:])] + [-100] * empty)
    return Dataset.from_dict(columns), sizes
