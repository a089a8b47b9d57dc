"""The entries without a significant difference from the best, by the letters of their groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peftkit.leaderboard.entries import BoardEntry


@dataclass(frozen=True)
class Cell:
    """The entries of one task on one board, best first, as positions.

    `top` has no significant difference from the best, `worse` has one.
    """

    board: str
    task: str
    ranked: list[int]
    top: list[int]
    worse: list[int]
    failed: list[int]
    is_tested: bool


def cells(entries: Sequence[BoardEntry], groups: Sequence[str]) -> list[Cell]:
    """Return a cell for each board and task, in the entries' order; without letters `top` has only the best."""
    places: dict[tuple[str, str], list[int]] = {}
    for number, entry in enumerate(entries):
        places.setdefault((entry.board, entry.task), []).append(number)
    return [_cell(name, members, entries, groups) for name, members in places.items()]


def _cell(name: tuple[str, str], members: list[int], entries: Sequence[BoardEntry], groups: Sequence[str]) -> Cell:
    scored = [number for number in members if entries[number].score is not None]
    ranked = sorted(scored, key=lambda number: -(entries[number].score or 0))  # an error's score is negative
    letters = set(groups[ranked[0]]) if ranked else set()
    top = [number for number in ranked if letters & set(groups[number])] or ranked[:1]
    worse = [number for number in ranked if groups[number] and number not in top] if letters else []
    failed = [number for number in members if entries[number].score is None]
    return Cell(*name, ranked, top, worse, failed, bool(letters))


def figure(entry: BoardEntry, value: float | None, digits: int = 1) -> str:
    """Format a score times 100, an error unchanged, and a dash for None."""
    if value is None:
        return "–"
    return f"{100 * value:.{digits}f}" if entry.is_up else f"{abs(value):.4g}"
