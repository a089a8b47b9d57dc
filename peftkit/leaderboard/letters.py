"""Compact letter displays: entries that share a letter do not differ significantly."""

from __future__ import annotations

import string
from collections.abc import Iterable

ORDER = string.ascii_lowercase + string.ascii_uppercase


def letters(count: int, differing: Iterable[tuple[int, int]]) -> list[str]:
    """Return each entry's letters by insertion and absorption (Piepho 2004); the first entry has "a".

    Two entries share a letter if and only if `differing` does not contain the pair.
    """
    columns: list[set[int]] = [set(range(count))]
    for one, other in differing:
        split = [column for column in columns if one in column and other in column]
        columns = [column for column in columns if column not in split]
        for column in split:
            for part in (column - {one}, column - {other}):
                if not any(part <= kept for kept in columns):
                    columns = [kept for kept in columns if not kept <= part] + [part]
    columns = sorted(columns, key=lambda column: sorted(column))
    return [
        "".join(_letter(place) for place, column in enumerate(columns) if entry in column) for entry in range(count)
    ]


def _letter(place: int) -> str:
    return ORDER[place] if place < len(ORDER) else chr(0x3B1 + place - len(ORDER))  # Greek letters follow
