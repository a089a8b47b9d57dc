"""Sentences that summarize the tests: which methods are best on each task, and over tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from peftkit.leaderboard.entries import BoardEntry
from peftkit.leaderboard.ties import Cell, cells, figure
from peftkit.leaderboard.verdict import Verdict, listed


def headlines(
    entries: Sequence[BoardEntry], groups: Sequence[str], detectable: Mapping[tuple[str, str], float]
) -> dict[str, list[tuple[str, str]]]:
    """Return (task, sentence) pairs for each board; a sentence over all tasks has the task ''."""
    sentences_of: dict[str, list[tuple[str, str]]] = {}
    boards: dict[str, list[Cell]] = {}
    for cell in cells(entries, groups):
        boards.setdefault(cell.board, []).append(cell)
    for board, members in boards.items():
        several = len({entries[number].model for cell in members for number in cell.ranked + cell.failed}) > 1
        sentences_of[board] = [("", text) for text in _overall(members, entries, several)]
        sentences_of[board] += [
            (cell.task, _sentence(cell, entries, several, detectable.get((board, cell.task)))) for cell in members
        ]
    return sentences_of


def sentences(entries: Sequence[BoardEntry], verdict: Verdict, title: str) -> dict[str, str]:
    """Return the sentence of each tested task of a board; the table of an untested one shows as much."""
    tested = {each.task for each in cells(entries, verdict.groups) if each.board == title and each.is_tested}
    summaries = headlines(entries, verdict.groups, verdict.detectable).get(title, [])
    return {task: text for task, text in summaries if task in tested}


def _overall(members: Sequence[Cell], entries: Sequence[BoardEntry], several: bool) -> list[str]:
    """Return which entries are tied for best on the most tasks, of those that were tested."""
    tested = [cell for cell in members if cell.is_tested and len(cell.ranked) > 1]
    if len(tested) < 2:
        return []
    counts = Counter(name for cell in tested for name in {entries[number].label(several) for number in cell.top})
    most = counts.most_common(1)[0][1]
    names = sorted(name for name, count in counts.items() if count == most)
    verb = "is" if len(names) == 1 else "are"
    text = (
        f"{listed(names)} {verb} best, or not significantly different from the best, on {most} of {len(tested)} tasks."
    )
    undecided = [cell.task for cell in tested if len(cell.top) == len(cell.ranked)]
    if undecided:
        text += f" On {listed(undecided)} no methods differ significantly."
    return [text]


def _sentence(cell: Cell, entries: Sequence[BoardEntry], several: bool, detectable: float | None) -> str:
    if not cell.ranked:
        return "no run has a valid score."
    best = entries[cell.ranked[0]]
    name, score = best.label(several), figure(best, best.score)
    power = ""
    if detectable:  # zero where all predictions are equal
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
    tied, worse = ([entries[number].label(several) for number in numbers] for numbers in (cell.top[1:], cell.worse))
    text = f"{name} has the best mean, {score}. No significant difference from the best: {listed(tied)}"
    text += f"; significantly worse: {listed(worse)}." if worse else "."
    return text + _lightest(cell, entries, several) + power


def _others(cell: Cell) -> str:
    others = len(cell.worse)
    return "the other entry" if others == 1 else f"each of the other {others}"


def _lightest(cell: Cell, entries: Sequence[BoardEntry], several: bool) -> str:
    """Return which of the tied entries trains the fewest parameters."""
    trained = {number: entries[number].costs.get("trainable_params") for number in cell.top}
    known = {number: value for number, value in trained.items() if value is not None}
    if len(known) < 2:
        return ""
    least = min(known, key=lambda number: known[number])
    return f" Among these, {entries[least].label(several)} trains the fewest parameters, {_count(known[least])}."


def _count(value: float) -> str:
    for size, unit in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"
