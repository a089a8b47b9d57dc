"""Batches of streamed texts, bounded by their length in characters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def batch_by_letters(
    items: Iterable[Item], letters: int, count: int, text_of: Callable[[Item], str]
) -> Iterator[list[Item]]:
    """Yield batches that end at `letters` characters or `count` items; the longest text bounds the memory."""
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(text_of(item))
        if size >= letters or len(batch) >= count:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
