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
    groups: list[str]  # a row; rows of a task that share a letter are tied, "" where no test was possible
    detectable: dict[tuple[str, str], float]  # (board, task): minimum detectable difference at 80 % power
    records: Records  # (board, row, other row): tasks won, tied, lost
    notes: list[str]


def judge(rows: Sequence[BoardEntry], results: Iterable[BoardRun | UnreadableRun]) -> Verdict:
    """Test all pairs of entries within each task of each board, with Holm's correction over the board.

    Args:
        rows: what `board(results)` returns.
        results: what the rows were made of; those that cannot be read are told in the notes.
    """
    comparisons: list[Comparison] = []
    power: dict[tuple[str, str], float] = {}
    groups = [""] * len(rows)
    notes: list[str] = []
    for title, tasks in _boards(rows).items():
        read = [cell_of([rows[number] for number in members]) for members in tasks.values()]
        found = contrast([cell for cell, _ in read])
        adjusted = holm(np.concatenate([each.p for each in found]))
        tested = int(np.sum(~np.isnan(adjusted)))
        parts = np.split(adjusted, np.cumsum([len(each.p) for each in found])[:-1])
        for (task, members), (cell, left_out), tests, p in zip(tasks.items(), read, found, parts, strict=True):
            here = _comparisons(members, cell, tests, p)
            comparisons += here
            _set_groups(groups, members, here)
            least = detectable(tests, tested)
            if least is not None:
                power[title, task] = least
            notes += [f"{task}: {text}" for text in _notes([rows[number] for number in members], tests, left_out)]
    missing = [f"{row.task}: {_missing(row)}" for row in rows if len(row.seeds) < row.planned]
    unread = sum(isinstance(result, UnreadableRun) for result in results)
    notes += [f"{unread} results cannot be read and stand in no table."] if unread else []
    return Verdict(comparisons, groups, power, _records(rows, comparisons), list(dict.fromkeys(missing + notes)))


def judged(results: Sequence[BoardRun | UnreadableRun]) -> tuple[list[BoardEntry], Verdict]:
    """Return the rows of results, and what they allow to say."""
    rows = board_entries(results)
    return rows, judge(rows, results)


def _boards(rows: Sequence[BoardEntry]) -> dict[str, dict[str, list[int]]]:
    """Return board -> task -> the rows with a score, best first; a board without any has none."""
    scored = [number for number, row in enumerate(rows) if row.score is not None]
    found: dict[str, dict[str, list[int]]] = {}
    for number in sorted(scored, key=lambda number: -(rows[number].score or 0)):
        found.setdefault(rows[number].board, {}).setdefault(rows[number].task, []).append(number)
    order = list(dict.fromkeys((row.board, row.task) for row in rows))
    return {
        title: {task: found[title][task] for _, task in pairs if task in found.get(title, {})}
        for title, pairs in groupby(order, key=lambda pair: pair[0])
        if title in found
    }


def _comparisons(members: Sequence[int], cell: Cell, tests: Contrast, adjusted: np.ndarray) -> list[Comparison]:
    half = reach(ALPHA, tests) if len(tests.p) else np.zeros(0)
    found = []
    for n in np.flatnonzero(~np.isnan(tests.p)):
        first, second, difference = int(tests.first[n]), int(tests.second[n]), float(tests.difference[n])
        found.append(
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
    return found


def _set_groups(groups: list[str], members: Sequence[int], comparisons: Sequence[Comparison]) -> None:
    there = {number for c in comparisons for number in (c.first, c.second)}
    ranked = [number for number in members if number in there]
    place = {number: rank for rank, number in enumerate(ranked)}
    found = letters(len(ranked), [(place[c.first], place[c.second]) for c in comparisons if c.differs])
    for number, text in zip(ranked, found, strict=False):
        groups[number] = text


def _records(rows: Sequence[BoardEntry], comparisons: Sequence[Comparison]) -> Records:
    models = {title: len({row.model for row in here}) > 1 for title, here in groupby(rows, key=lambda row: row.board)}
    found: Records = {}
    for c in comparisons:
        title = rows[c.first].board
        one, other = (rows[number].label(models[title]) for number in (c.first, c.second))
        for key, result in (((title, one, other), 0), ((title, other, one), 2)):
            count = list(found.get(key, (0, 0, 0)))
            count[result if c.differs else 1] += 1
            found[key] = (count[0], count[1], count[2])
    return found


def _notes(rows: Sequence[BoardEntry], tests: Contrast, left_out: Notes) -> list[str]:
    """Return sentences about what a task's tests leave out."""
    found = []
    kinds = set(tests.test)
    if kinds & {EXAMPLES, MCNEMAR}:
        found.append("one seed a row, so these tests generalize to other examples, not to other seeds.")
    single = [row.name for row in rows if len(row.seeds) == 1]
    if single and not kinds <= {EXAMPLES, MCNEMAR, ""}:
        found.append(f"one seed: {listed(single)}; the spread that others show stands in for its own.")
    if left_out.no_form:
        metrics = ", ".join(left_out.no_form)
        found.append(f"{metrics} cannot be resampled, so these tests generalize to other seeds, not to other examples.")
    for reason, names in left_out.left_out.items():
        found.append(f"{reason}, so tested over seeds alone: {listed(names)}.")
    if "" in kinds:
        found.append("one seed and no predictions that could be paired: some rows were not tested.")
    if len(rows) > LIMIT:
        beyond = f", the other {len(rows) - FARTHEST} not at all" if len(rows) > FARTHEST else ""
        found.append(f"the best {LIMIT} rows are tested in all pairs, rows beyond against the best alone{beyond}.")
    return found


def _missing(row: BoardEntry) -> str:
    return f"{row.name} has {len(row.seeds)} of {row.planned} seeds."


def listed(names: Sequence[str]) -> str:
    """Join the first names, and count the others."""
    if len(names) > NAMED + 1:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
