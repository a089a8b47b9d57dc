"""The tests of a board: which entries differ, which are tied, and the minimum detectable difference of each task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from peftkit.leaderboard.contrast import ALPHA, EXAMPLES, MCNEMAR, Cell, Contrast, contrast, detectable, holm, reach
from peftkit.leaderboard.entries import BoardEntry
from peftkit.leaderboard.letters import letters
from peftkit.leaderboard.paired import FARTHEST, LIMIT, Notes, cell_of
from peftkit.leaderboard.runs import BoardRun, UnreadableRun
from peftkit.leaderboard.stats import board_entries

NAMED = 4  # entries in a sentence
Records = dict[tuple[str, str, str], tuple[int, int, int]]


@dataclass(frozen=True)
class Comparison:
    """A test of two entries of one task; `first` and `second` are their positions, the better mean first."""

    first: int
    second: int
    difference: float  # first minus second, in the units of `task_score`
    low: float  # 95 %, of this pair alone
    high: float
    p: float
    p_holm: float  # over all pairs of all tasks of the board
    differs: bool
    test: str
    examples: int  # 0 where they are not in the test
    seeds: int  # of the entry that has fewer


@dataclass(frozen=True)
class Verdict:
    """The tests of all boards, and what they leave out."""

    comparisons: list[Comparison]
    groups: list[str]  # letters of each entry; entries of a task that share one are tied, "" without a test
    detectable: dict[tuple[str, str], float]  # (board, task): minimum detectable difference at 80 % power
    records: Records  # (board, entry, other entry): tasks won, tied, lost
    notes: list[str]


def judge(entries: Sequence[BoardEntry], results: Iterable[BoardRun | UnreadableRun]) -> Verdict:
    """Test all pairs of entries within each task of each board, with Holm's correction over the board.

    Args:
        entries: what `board_entries(results)` returns.
        results: the runs of the entries; unreadable ones are counted in the notes.
    """
    comparisons: list[Comparison] = []
    power: dict[tuple[str, str], float] = {}
    groups = [""] * len(entries)
    notes: list[str] = []
    for title, tasks in _boards(entries).items():
        read = [cell_of([entries[number] for number in members]) for members in tasks.values()]
        contrasts = contrast([cell for cell, _ in read])
        adjusted = holm(np.concatenate([each.p for each in contrasts]))
        tested = int(np.sum(~np.isnan(adjusted)))
        parts = np.split(adjusted, np.cumsum([len(each.p) for each in contrasts])[:-1])
        for (task, members), (cell, left_out), tests, p in zip(tasks.items(), read, contrasts, parts, strict=True):
            tested_pairs = _comparisons(members, cell, tests, p)
            comparisons += tested_pairs
            _set_groups(groups, members, tested_pairs)
            least = detectable(tests, tested)
            if least is not None:
                power[title, task] = least
            notes += [f"{task}: {text}" for text in _notes([entries[number] for number in members], tests, left_out)]
    missing = [f"{entry.task}: {_missing(entry)}" for entry in entries if len(entry.seeds) < entry.planned]
    unread = sum(isinstance(result, UnreadableRun) for result in results)
    notes += [f"{unread} results cannot be read and are in no table."] if unread else []
    return Verdict(comparisons, groups, power, _records(entries, comparisons), list(dict.fromkeys(missing + notes)))


def judged(results: Sequence[BoardRun | UnreadableRun]) -> tuple[list[BoardEntry], Verdict]:
    """Return the entries of results and their tests."""
    entries = board_entries(results)
    return entries, judge(entries, results)


def _boards(entries: Sequence[BoardEntry]) -> dict[str, dict[str, list[int]]]:
    """Return board -> task -> the entries with a score, best first; boards without any are absent."""
    scored = [number for number, entry in enumerate(entries) if entry.score is not None]
    boards: dict[str, dict[str, list[int]]] = {}
    for number in sorted(scored, key=lambda number: -(entries[number].score or 0)):
        boards.setdefault(entries[number].board, {}).setdefault(entries[number].task, []).append(number)
    order = list(dict.fromkeys((entry.board, entry.task) for entry in entries))
    return {
        title: {task: boards[title][task] for _, task in pairs if task in boards.get(title, {})}
        for title, pairs in groupby(order, key=lambda pair: pair[0])
        if title in boards
    }


def _comparisons(members: Sequence[int], cell: Cell, tests: Contrast, adjusted: np.ndarray) -> list[Comparison]:
    half = reach(ALPHA, tests) if len(tests.p) else np.zeros(0)
    comparisons = []
    for n in np.flatnonzero(~np.isnan(tests.p)):
        first, second, difference = int(tests.first[n]), int(tests.second[n]), float(tests.difference[n])
        comparisons.append(
            Comparison(
                first=members[first],
                second=members[second],
                difference=difference,
                low=difference - float(half[n]),
                high=difference + float(half[n]),
                p=float(tests.p[n]),
                p_holm=float(adjusted[n]),
                differs=bool(adjusted[n] <= ALPHA),
                test=tests.test[n],
                examples=cell.examples if tests.over_examples[n] else 0,
                seeds=min(len(cell.entries[first].values), len(cell.entries[second].values)),
            )
        )
    return comparisons


def _set_groups(groups: list[str], members: Sequence[int], comparisons: Sequence[Comparison]) -> None:
    compared = {number for c in comparisons for number in (c.first, c.second)}
    ranked = [number for number in members if number in compared]
    place = {number: rank for rank, number in enumerate(ranked)}
    letter_groups = letters(len(ranked), [(place[c.first], place[c.second]) for c in comparisons if c.differs])
    for number, text in zip(ranked, letter_groups, strict=False):
        groups[number] = text


def _records(entries: Sequence[BoardEntry], comparisons: Sequence[Comparison]) -> Records:
    models = {
        title: len({entry.model for entry in members}) > 1
        for title, members in groupby(entries, key=lambda entry: entry.board)
    }
    records: Records = {}
    for c in comparisons:
        title = entries[c.first].board
        one, other = (entries[number].label(models[title]) for number in (c.first, c.second))
        for key, result in (((title, one, other), 0), ((title, other, one), 2)):
            count = list(records.get(key, (0, 0, 0)))
            count[result if c.differs else 1] += 1
            records[key] = (count[0], count[1], count[2])
    return records


def _notes(entries: Sequence[BoardEntry], tests: Contrast, left_out: Notes) -> list[str]:
    """Return sentences about what a task's tests leave out."""
    notes = []
    kinds = set(tests.test)
    if kinds & {EXAMPLES, MCNEMAR}:
        notes.append("one seed per entry, so these tests generalize to other examples, not to other seeds.")
    single = [entry.name for entry in entries if len(entry.seeds) == 1]
    if single and not kinds <= {EXAMPLES, MCNEMAR, ""}:
        notes.append(f"one seed: {listed(single)}; the spread of the other entries is used instead.")
    if left_out.not_resampled:
        metrics = ", ".join(left_out.not_resampled)
        notes.append(f"{metrics} cannot be resampled, so these tests generalize to other seeds, not to other examples.")
    for reason, names in left_out.left_out.items():
        notes.append(f"{reason}, so tested over seeds alone: {listed(names)}.")
    if "" in kinds:
        notes.append("one seed and no paired predictions: some entries were not tested.")
    if len(entries) > LIMIT:
        beyond = f"; the last {len(entries) - FARTHEST} are not tested" if len(entries) > FARTHEST else ""
        notes.append(f"the best {LIMIT} entries are tested in all pairs, the others only against the best{beyond}.")
    return notes


def _missing(entry: BoardEntry) -> str:
    return f"{entry.name} has {len(entry.seeds)} of {entry.planned} seeds."


def listed(names: Sequence[str]) -> str:
    """Join the first names and count the others."""
    if len(names) > NAMED + 1:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
