"""Packing of whole examples into blocks, in which attention keeps them separate."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

from datasets import Dataset


# trl.pack_dataset does not replace this: it packs each batch of `map` by itself, breaks ties by an unstable sort,
# and leaves padding, position ids and the labels of first tokens to its own collator.
def best_fit_decreasing(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Return blocks of row numbers: longest first, each where it leaves the least room (Ding et al. 2024).

    Ties go to the earlier row and the later block, so that the same lengths are always packed alike.
    """
    blocks: list[list[int]] = []
    free: list[tuple[int, int]] = []  # room left, and the block's number, sorted
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        place = bisect_left(free, (lengths[row], -1))
        left, number = free.pop(place) if place < len(free) else (room, len(blocks))
        if number == len(blocks):
            blocks.append([])
        blocks[number].append(row)
        insort(free, (left - lengths[row], number))
    return blocks


def pack_examples(rows: Dataset, room: int, fill: int) -> tuple[Dataset, list[int]]:
    """Return rows (input_ids, labels) as blocks of `room` tokens, and how many of each are no filling.

    The positions begin anew with each row, by which attention tells rows apart. Nothing is learned of a row's first
    token, which follows nothing, nor of the filling.
    """
    inputs, targets = list(rows["input_ids"]), list(rows["labels"])
    found: dict[str, list[Any]] = {"input_ids": [], "position_ids": [], "labels": []}
    sizes = []
    for members in best_fit_decreasing([len(ids) for ids in inputs], room):
        ids = [token for row in members for token in inputs[row]]
        empty = room - len(ids)
        sizes.append(len(ids))
        found["input_ids"].append(ids + [fill] * empty)
        found["position_ids"].append([place for row in members for place in range(len(inputs[row]))] + [0] * empty)
        found["labels"].append([token for row in members for token in (-100, *targets[row][1:])] + [-100] * empty)
    return Dataset.from_dict(found), sizes
