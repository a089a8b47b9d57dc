"""The tests of a board: which entries differ significantly, and the minimum detectable difference of each task."""

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from peftkit.leaderboard.contrast import (
    ALPHA,
    EXAMPLES,
    MCNEMAR,
    SEEDS,
    Contrast,
    contrast,
    detectable,
    half_width,
    holm,
)
from peftkit.leaderboard.paired import MAX_ALL_PAIRS, MAX_TESTED, sample_of
from peftkit.leaderboard.runs import BoardEntry, BoardRun, UnreadableRun, grouped
from peftkit.metrics import METRICS

MAX_LISTED = 4  # entries in a sentence
LATIN, GREEK = string.ascii_letters, 0x3B1  # letters of groups; where Latin ones do not suffice, those from alpha
Records = dict[tuple[str, str, str], tuple[int, int, int]]


@dataclass(frozen=True)
class Comparison:
    """A test of two entries of one task; `first` and `second` are their positions, the better mean first."""

    first: int
    second: int
    difference: float  # first minus second, in the units of `task_score`
    low: float  # 95 %, of this pair only
    high: float
    p: float
    p_holm: float  # over all pairs of all tasks of the board
    differs: bool
    test: str
    examples: int  # 0 where they are not in the test
    seeds: int  # of the entry that has fewer


@dataclass(frozen=True)
class Verdict:
    """The tests of all boards, and notes on what they do not include."""

    comparisons: list[Comparison]
    groups: list[str]  # letters by entry: entries that share one do not differ significantly; "" if not tested
    detectable: dict[tuple[str, str], float]  # (board, task): minimum detectable difference at 80 % power
    records: Records  # (board, entry, other entry): tasks won, tied, lost
    notes: list[str]


@dataclass(frozen=True)
class Ranking:
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


def compare_entries(entries: Sequence[BoardEntry], results: Iterable[BoardRun | UnreadableRun]) -> Verdict:
    """Test all pairs of entries within each task of each board, with Holm's correction over the board.

    Args:
        entries: what `board_entries(results)` returns.
        results: the runs of the entries; unreadable ones are counted in the notes.
    """
    comparisons: list[Comparison] = []
    power: dict[tuple[str, str], float] = {}
    groups = [""] * len(entries)
    notes = [
        f"{entry.task}: {entry.name} has {len(entry.seeds)} of {entry.planned} seeds."
        for entry in entries
        if len(entry.seeds) < entry.planned
    ]
    scored = [ranking for ranking in rank_tasks(entries, groups) if ranking.ranked]
    for title, members in groupby(scored, key=lambda ranking: ranking.board):
        tasks = {ranking.task: ranking.ranked for ranking in members}
        contrasts = contrast([sample_of([entries[number] for number in ranked]) for ranked in tasks.values()])
        adjusted = holm(np.concatenate([tests.p for tests in contrasts]))
        parts = np.split(adjusted, np.cumsum([len(tests.p) for tests in contrasts])[:-1])
        for (task, ranked), tests, p in zip(tasks.items(), contrasts, parts, strict=True):
            tested_pairs = _comparisons(ranked, tests, p)
            comparisons += tested_pairs
            _set_groups(groups, ranked, tested_pairs)
            if (least := detectable(tests, int(np.sum(~np.isnan(adjusted))))) is not None:
                power[title, task] = least
            notes += [f"{task}: {text}" for text in _notes([entries[number] for number in ranked], tests)]
    unread = sum(isinstance(result, UnreadableRun) for result in results)
    notes += [f"{unread} results cannot be read and are in no table."] if unread else []
    return Verdict(comparisons, groups, power, _records(entries, comparisons), list(dict.fromkeys(notes)))


def rank_tasks(entries: Sequence[BoardEntry], groups: Sequence[str]) -> list[Ranking]:
    """Return the ranking of each board and task, in the entries' order; without letters `top` has only the best."""
    tasks = grouped(range(len(entries)), lambda number: (entries[number].board, entries[number].task))
    return [_ranking(members, entries, groups) for members in tasks.values()]


def _ranking(members: Sequence[int], entries: Sequence[BoardEntry], groups: Sequence[str]) -> Ranking:
    failed = [number for number in members if entries[number].score is None]
    scored = [number for number in members if entries[number].score is not None]
    ranked = sorted(scored, key=lambda number: -(entries[number].score or 0))  # an error's score is negative
    letters = set(groups[ranked[0]]) if ranked else set()
    top = [number for number in ranked if letters & set(groups[number])] or ranked[:1]
    worse = [number for number in ranked if groups[number] and number not in top] if letters else []
    board, task = entries[members[0]].board, entries[members[0]].task
    return Ranking(board, task, ranked, top, worse, failed, is_tested=bool(letters))


def _comparisons(members: Sequence[int], tests: Contrast, adjusted: np.ndarray) -> list[Comparison]:
    sample = tests.sample
    half = half_width(ALPHA, tests)
    comparisons = []
    for n in np.flatnonzero(~np.isnan(tests.p)):
        first, second, difference = int(sample.first[n]), int(sample.second[n]), float(tests.difference[n])
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
                examples=0 if tests.test[n] == SEEDS else sample.examples,
                seeds=min(len(sample.entries[first].values), len(sample.entries[second].values)),
            )
        )
    return comparisons


def _set_groups(groups: list[str], members: Sequence[int], comparisons: Sequence[Comparison]) -> None:
    compared = {number for c in comparisons for number in (c.first, c.second)}
    ranked = [number for number in members if number in compared]
    differing = [(ranked.index(c.first), ranked.index(c.second)) for c in comparisons if c.differs]
    for number, text in zip(ranked, compact_letters(len(ranked), differing), strict=True):
        groups[number] = text


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


def _records(entries: Sequence[BoardEntry], comparisons: Sequence[Comparison]) -> Records:
    records: Records = {}
    for c in comparisons:
        one, other = entries[c.first], entries[c.second]
        for key, result in (((one.board, one.label, other.label), 0), ((one.board, other.label, one.label), 2)):
            count = list(records.get(key, (0, 0, 0)))
            count[result if c.differs else 1] += 1
            records[key] = (count[0], count[1], count[2])
    return records


def _notes(entries: Sequence[BoardEntry], tests: Contrast) -> list[str]:
    """Return sentences about what a task's tests do not include."""
    kinds = set(tests.test)
    single = [entry.name for entry in entries if len(entry.seeds) == 1]
    metrics = ", ".join(tests.sample.not_resampled)
    is_own = any(":" not in name and not name.startswith((*METRICS,)) for name in tests.sample.not_resampled)
    own = "; a metric of your own needs allow_code=[mypackage] here too" if is_own else ""
    beyond = f"; the last {len(entries) - MAX_TESTED} are not tested" if len(entries) > MAX_TESTED else ""
    notes: list[tuple[object, str]] = [
        (
            kinds & {EXAMPLES, MCNEMAR},
            "one seed per entry, so these tests generalize to other examples, not to other seeds.",
        ),
        (
            single and not kinds <= {EXAMPLES, MCNEMAR, ""},
            f"one seed: {listed(single)}; the spread of the other entries is used instead.",
        ),
        (
            metrics,
            f"{metrics} cannot be resampled, so these tests generalize to other seeds, not to other examples{own}.",
        ),
        *(
            (names, f"{reason}, so tested over seeds only: {listed(names)}.")
            for reason, names in tests.sample.left_out.items()
        ),
        ("" in kinds, "one seed and no paired predictions: some entries were not tested."),
        (
            len(entries) > MAX_ALL_PAIRS,
            f"the best {MAX_ALL_PAIRS} entries are tested in all pairs, the others only against the best{beyond}.",
        ),
    ]
    return [text for is_true, text in notes if is_true]


def listed(names: Sequence[str]) -> str:
    """Join the first names and count the others."""
    if len(names) > MAX_LISTED + 1:
        return f"{', '.join(names[:MAX_LISTED])} and {len(names) - MAX_LISTED} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
