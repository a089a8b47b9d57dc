"""Sentences that summarize the tests: which methods are best on each task, and over tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from peftkit.leaderboard.cells import figure
from peftkit.leaderboard.runs import BoardEntry, grouped
from peftkit.leaderboard.verdict import Ranking, Verdict, listed, rank_tasks


def headlines(
    entries: Sequence[BoardEntry], groups: Sequence[str], detectable: Mapping[tuple[str, str], float]
) -> dict[str, list[tuple[str, str]]]:
    """Return (task, sentence) pairs for each board; a sentence over all tasks has the task ''."""
    return {
        board: _overall(tasks, entries)
        + [(each.task, _sentence(each, entries, detectable.get((board, each.task)))) for each in tasks]
        for board, tasks in grouped(rank_tasks(entries, groups), lambda each: each.board).items()
    }


def sentences(entries: Sequence[BoardEntry], verdict: Verdict, title: str) -> dict[str, str]:
    """Return the sentence of each tested task of a board; the table of an untested one shows as much."""
    tested = {each.task for each in rank_tasks(entries, verdict.groups) if each.board == title and each.is_tested}
    summaries = headlines(entries, verdict.groups, verdict.detectable).get(title, [])
    return {task: text for task, text in summaries if task in tested}


def _overall(tasks: Sequence[Ranking], entries: Sequence[BoardEntry]) -> list[tuple[str, str]]:
    """Return which entries are tied for best on the most tasks, of those that were tested."""
    tested = [each for each in tasks if each.is_tested and len(each.ranked) > 1]
    if len(tested) < 2:
        return []
    counts = Counter(name for each in tested for name in {entries[number].label for number in each.top})
    most = max(counts.values())
    names = sorted(name for name, count in counts.items() if count == most)
    text = (
        f"{listed(names)} {'is' if len(names) == 1 else 'are'} best, or not significantly different from the best, "
        f"on {most} of {len(tested)} tasks."
    )
    undecided = [each.task for each in tested if len(each.top) == len(each.ranked)]
    text += f" On {listed(undecided)} no methods differ significantly." if undecided else ""
    return [("", text)]


def _sentence(task: Ranking, entries: Sequence[BoardEntry], detectable: float | None) -> str:
    if not task.ranked:
        return "no run has a valid score."
    name, *tied = (entries[number].label for number in task.top)
    best = entries[task.top[0]]
    score = figure(best, best.score or 0)
    power = ""
    if detectable:  # zero where all predictions are equal
        size = f"{100 * detectable:.1f} points" if best.is_up else f"{detectable:.3g}"
        power = f" Minimum detectable difference (80 % power): {size}."
    if len(task.ranked) == 1:
        return f"{name} scores {score}; there is no other entry to compare with."
    if not task.is_tested:
        return f"{name} has the {'highest' if best.is_up else 'lowest'} mean, {score}; differences were not tested."
    if len(task.top) == len(task.ranked):
        return f"no significant differences among {len(task.ranked)} entries; {name} has {score}.{power}"
    if not tied:
        others = "the other entry" if len(task.worse) == 1 else f"each of the other {len(task.worse)}"
        return f"{name} is best with {score}, significantly better than {others}.{power}"
    worse = f"; significantly worse: {listed([entries[number].label for number in task.worse])}" if task.worse else ""
    return (
        f"{name} has the best mean, {score}. No significant difference from the best: {listed(tied)}{worse}."
        f"{_lightest([entries[number] for number in task.top])}{power}"
    )


def _lightest(tied: Sequence[BoardEntry]) -> str:
    """Return which of the tied entries trains the fewest parameters."""
    known = [(entry.costs["trainable_params"], entry.label) for entry in tied if "trainable_params" in entry.costs]
    if len(known) < 2:
        return ""
    least, name = min(known, key=lambda pair: pair[0])
    units = ((1e9, " billion"), (1e6, " million"), (1e3, " thousand"))
    count = next((f"{least / size:.3g}{unit}" for size, unit in units if least >= size), f"{least:.0f}")
    return f" Among these, {name} trains the fewest parameters, {count}."
