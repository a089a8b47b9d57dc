"""Sentences that summarize the tests: which methods are best on each task, and over tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from peftkit.leaderboard.entries import BoardEntry
from peftkit.leaderboard.ties import Cell, cells, figure
from peftkit.leaderboard.verdict import Verdict, listed


def headlines(
    rows: Sequence[BoardEntry], groups: Sequence[str], detectable: Mapping[tuple[str, str], float]
) -> dict[str, list[tuple[str, str]]]:
    """Return (task, sentence) pairs a board; a sentence over all tasks has the task ''."""
    found: dict[str, list[tuple[str, str]]] = {}
    boards: dict[str, list[Cell]] = {}
    for cell in cells(rows, groups):
        boards.setdefault(cell.board, []).append(cell)
    for board, here in boards.items():
        several = len({rows[number].model for cell in here for number in cell.ranked + cell.failed}) > 1
        found[board] = [("", text) for text in _overall(here, rows, several)]
        found[board] += [
            (cell.task, _sentence(cell, rows, several, detectable.get((board, cell.task)))) for cell in here
        ]
    return found


def sentences(rows: Sequence[BoardEntry], verdict: Verdict, title: str) -> dict[str, str]:
    """Return the sentence of each task of a board whose rows were tested: of others its table says as much."""
    tested = {each.task for each in cells(rows, verdict.groups) if each.board == title and each.is_tested}
    found = headlines(rows, verdict.groups, verdict.detectable).get(title, [])
    return {task: text for task, text in found if task in tested}


def _overall(here: Sequence[Cell], rows: Sequence[BoardEntry], several: bool) -> list[str]:
    """Say who is tied for best on how many tasks, where the tasks were tested."""
    tested = [cell for cell in here if cell.is_tested and len(cell.ranked) > 1]
    if len(tested) < 2:
        return []
    counts = Counter(name for cell in tested for name in {rows[number].label(several) for number in cell.top})
    most = counts.most_common(1)[0][1]
    names = sorted(name for name, count in counts.items() if count == most)
    verb = "is" if len(names) == 1 else "are"
    text = (
        f"{listed(names)} {verb} best, or not significantly different from the best, on {most} of {len(tested)} tasks."
    )
    blind = [cell.task for cell in tested if len(cell.top) == len(cell.ranked)]
    if blind:
        text += f" On {listed(blind)} no methods differ significantly."
    return [text]


def _sentence(cell: Cell, rows: Sequence[BoardEntry], several: bool, detectable: float | None) -> str:
    if not cell.ranked:
        return "no run has a score that counts."
    best = rows[cell.ranked[0]]
    name, score = best.label(several), figure(best, best.score)
    power = ""
    if detectable:  # of rows that say the same of every example there is no telling
        size = f"{100 * detectable:.1f} points" if best.is_up else f"{detectable:.3g}"
        power = f" Minimum detectable difference (80 % power): {size}."
    if len(cell.ranked) == 1:
        return f"{name} scores {score}; there is no other entry to compare with."
    if not cell.is_tested:
        extreme = "highest" if best.is_up else "lowest"
        return f"{name} has the {extreme} mean, {score}; differences were not tested."
    if len(cell.top) == len(cell.ranked):
        return f"no significant differences among {len(cell.ranked)} entries; {name} has {score}.{power}"
    if len(cell.top) == 1:
        return f"{name} is best with {score}, significantly better than {_others(cell)}.{power}"
    tied, worse = ([rows[number].label(several) for number in here] for here in (cell.top[1:], cell.worse))
    text = f"{name} has the best mean, {score}. No significant difference from the best: {listed(tied)}"
    text += f"; significantly worse: {listed(worse)}." if worse else "."
    return text + _lightest(cell, rows, several) + power


def _others(cell: Cell) -> str:
    others = len(cell.worse)
    return "the other entry" if others == 1 else f"each of the other {others}"


def _lightest(cell: Cell, rows: Sequence[BoardEntry], several: bool) -> str:
    """Name the cheapest of the tied: between equals the lighter one is the answer."""
    trained = {number: rows[number].costs.get("trainable_params") for number in cell.top}
    known = {number: value for number, value in trained.items() if value is not None}
    if len(known) < 2:
        return ""
    least = min(known, key=lambda number: known[number])
    return f" Among these, {rows[least].label(several)} trains the fewest parameters, {_count(known[least])}."


def _count(value: float) -> str:
    for size, unit in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"
