"""Turn letters of tied groups into who is tied with the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peftkit.leaderboard.entries import BoardEntry


@dataclass(frozen=True)
class Cell:
    """The rows of one task on one board, best first, as positions.

    `top` are those that no test tells from the best, `worse` those that one does.
    """

    board: str
    task: str
    ranked: list[int]
    top: list[int]
    worse: list[int]
    failed: list[int]
    is_tested: bool


def cells(rows: Sequence[BoardEntry], groups: Sequence[str]) -> list[Cell]:
    """Return a cell a board and task, in the rows' order; without letters only the best stands in `top`."""
    places: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(rows):
        places.setdefault((row.board, row.task), []).append(number)
    return [_cell(name, here, rows, groups) for name, here in places.items()]


def _cell(name: tuple[str, str], here: list[int], rows: Sequence[BoardEntry], groups: Sequence[str]) -> Cell:
    scored = [number for number in here if rows[number].score is not None]
    ranked = sorted(scored, key=lambda number: -(rows[number].score or 0))  # an error's score is negative
    letters = set(groups[ranked[0]]) if ranked else set()
    top = [number for number in ranked if letters & set(groups[number])] or ranked[:1]
    worse = [number for number in ranked if groups[number] and number not in top] if letters else []
    failed = [number for number in here if rows[number].score is None]
    return Cell(*name, ranked, top, worse, failed, bool(letters))


def figure(row: BoardEntry, value: float | None, digits: int = 1) -> str:
    """Show a score times 100, an error as it is, and a dash where there is none."""
    if value is None:
        return "–"
    return f"{100 * value:.{digits}f}" if row.is_up else f"{abs(value):.4g}"
