"""Letters of groups: a compact display of which entries differ significantly."""

import string
from collections.abc import Iterable, Sequence
from statistics import fmean

LATIN, GREEK = string.ascii_letters, 0x3B1  # where Latin letters do not suffice, those from alpha


def compact_letters(count: int, differing: Iterable[tuple[int, int]]) -> list[str]:
    """Return each entry's letters by insertion and absorption (Piepho 2004); the first entry has "a".

    Two entries share a letter if and only if `differing` does not contain the pair.
    """
    columns: list[set[int]] = [set(range(count))]
    for pair in differing:
        split = [column for column in columns if column.issuperset(pair)]
        columns = [column for column in columns if column not in split]
        for part in (column - {entry} for column in split for entry in pair):
            if not any(part <= kept for kept in columns):
                columns = [kept for kept in columns if not kept <= part] + [part]
    columns.sort(key=sorted)
    names = [LATIN[n] if n < len(LATIN) else chr(GREEK + n - len(LATIN)) for n in range(len(columns))]
    return [
        "".join(name for name, column in zip(names, columns, strict=True) if entry in column) for entry in range(count)
    ]


def shades(letters: Sequence[str], scores: Sequence[float]) -> list[float]:
    """Return a shade for each entry of a task, 1 for the best ones and 0 for the worst or where nothing differs.

    Entries that share a letter have the same shade, directly or through others (a, ab, b): a difference between shades
    is a significant one. Entries without letters, which were not tested, have shade 0.
    """
    groups: list[tuple[set[str], list[int]]] = []
    for number, text in enumerate(letters):
        joined = [group for group in groups if group[0] & set(text)]
        groups = [group for group in groups if group not in joined]
        names, members = set(text).union(*(g[0] for g in joined)), [n for g in joined for n in g[1]]
        groups += [(names, [*members, number])] if text else []
    means = [fmean(scores[n] for n in members) for _, members in groups]
    low, high = min(means, default=0.0), max(means, default=0.0)
    found = [0.0] * len(letters)
    for (_, members), mean in zip(groups, means, strict=True):
        for number in members:
            found[number] = (mean - low) / (high - low) if high > low else 0.0
    return found
