"""The tests of a board: which entries differ significantly, and the minimum detectable difference of each task."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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
from peftkit.leaderboard.intervals import Range, score_interval, score_range
from peftkit.leaderboard.letters import compact_letters
from peftkit.leaderboard.paired import MAX_ALL_PAIRS, MAX_TESTED, sample_of
from peftkit.leaderboard.runs import BoardEntry, BoardRun, UnreadableRun, grouped
from peftkit.metrics import METRICS
from peftkit.metrics.per_class import Z

MAX_LISTED = 4  # entries in a sentence
BETTER, NOT_BETTER, NOT_TESTED = "better", "not better", "not tested"  # than the baseline with a constant answer
Records = dict[tuple[str, str, str], tuple[int, int, int]]


@dataclass(frozen=True)
class Comparison:
    """A test of two entries of one task; `first` and `second` are their positions, the better mean first."""

    first: int
    second: int
    difference: float  # first minus second, in the units of `task_score`
    error: float  # standard error of the difference
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

    comparisons: list[Comparison]  # of methods
    groups: list[str]  # letters by entry: entries that share one do not differ significantly; "" if not tested
    # (board, task): minimum detectable difference at 80 % power; or why it cannot be estimated
    detectable: dict[tuple[str, str], float | str]
    records: Records  # (board, entry, other entry): tasks won, tied, lost
    notes: list[str]
    against_baseline: list[Comparison] = field(default_factory=list)  # of each entry (first) and its constant baseline
    intervals: dict[int, Range] = field(default_factory=dict)  # 95 %, of the task score, by entry


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
    baselines: list[int] = field(default_factory=list)  # in no other list
    letters: dict[int, str] = field(default_factory=dict)  # of the groups of each ranked entry


def compare_entries(entries: Sequence[BoardEntry], results: Iterable[BoardRun | UnreadableRun]) -> Verdict:
    """Test all pairs of methods within each task of each board, and each of them against its constant baseline.

    Holm's correction is over all pairs of methods of a board, and separately over its tests against baselines.

    Args:
        entries: what `board_entries(results)` returns, with or without baselines.
        results: the runs of the entries; unreadable ones are counted in the notes.
    """
    groups = [""] * len(entries)
    notes = [f"{entry.task}: {entry.label} {entry.seeds_note}." for entry in entries if entry.seeds_note]
    verdict = Verdict([], groups, {}, {}, notes)
    scored = [ranking for ranking in rank_tasks(entries, groups) if ranking.ranked]
    for _, members in groupby(scored, key=lambda ranking: ranking.board):
        _compare_board(list(members), entries, verdict)
    verdict.records.update(_records(entries, verdict.comparisons))
    unread = sum(isinstance(result, UnreadableRun) for result in results)
    notes += [f"{unread} results cannot be read and are in no table."] if unread else []
    notes[:] = dict.fromkeys(notes)
    return verdict


def _compare_board(rankings: Sequence[Ranking], entries: Sequence[BoardEntry], verdict: Verdict) -> None:
    """Add the tests, intervals and notes of the tasks of one board."""
    constants = [[number for number in each.baselines if entries[number].answer is not None] for each in rankings]
    samples = [
        sample_of([entries[number] for number in each.ranked], baselines=[entries[number] for number in fixed])
        for each, fixed in zip(rankings, constants, strict=True)
    ]
    contrasts = contrast(samples)
    counts = [len(each.ranked) for each in rankings]
    second = [tests.sample.second for tests in contrasts]
    methods = [tests.select(other < n) for tests, other, n in zip(contrasts, second, counts, strict=True)]
    scores = [
        tests.select(other == n + len(fixed))
        for tests, other, n, fixed in zip(contrasts, second, counts, constants, strict=True)
    ]
    against = [
        tests.select((other >= n) & (other < n + len(fixed)))
        for tests, other, n, fixed in zip(contrasts, second, counts, constants, strict=True)
    ]
    of_methods, of_baselines = _holm(methods), _holm(against)
    tested = sum(int(np.sum(~np.isnan(p))) for p in of_methods)
    for n, ranking in enumerate(rankings):
        members, limits = [*ranking.ranked, *constants[n]], score_range(entries[ranking.ranked[0]].higher_is_better)
        pairs = _comparisons(members, methods[n], of_methods[n], limits)
        verdict.comparisons.extend(pairs)
        verdict.against_baseline.extend(_comparisons(members, against[n], of_baselines[n], limits))
        verdict.intervals.update(_intervals(ranking.ranked, scores[n], limits, entries))
        _set_groups(verdict.groups, ranking.ranked, pairs)
        if (least := _detectable(methods[n], tested, limits)) is not None:
            verdict.detectable[ranking.board, ranking.task] = least
        verdict.notes.extend(
            f"{ranking.task}: {text}" for text in _notes([entries[m] for m in ranking.ranked], methods[n], against[n])
        )


def _holm(contrasts: Sequence[Contrast]) -> list[np.ndarray]:
    """Return the adjusted p-values of each contrast, with one correction over all of them."""
    adjusted = holm(np.concatenate([tests.p for tests in contrasts]))
    return np.split(adjusted, np.cumsum([len(tests.p) for tests in contrasts])[:-1])


def _intervals(
    members: Sequence[int], tests: Contrast, limits: Range, entries: Sequence[BoardEntry]
) -> dict[int, Range]:
    """Return the 95 % interval of each entry's score, where the variance over seeds or examples is known."""
    half = half_width(ALPHA, tests)
    found = {}
    for n in np.flatnonzero(~np.array([not name for name in tests.test], bool)):
        number = members[int(tests.sample.first[n])]
        examples = tests.sample.examples or sum(
            count for split, count in entries[number].examples.items() if split.startswith("validation")
        )
        spread = score_interval(float(tests.difference[n]), float(half[n]) / Z, limits, examples)
        if spread is not None:
            found[number] = spread
    return found


def _detectable(tests: Contrast, comparisons: int, limits: Range) -> float | str | None:
    """Return the minimum detectable difference, None without tests.

    A text where all seeds are equal, or no such difference can be seen: it is larger than the range of the score (of an
    error: than the largest one on the board), or smaller than one example.
    """
    least = detectable(tests, comparisons)
    if least is None:
        return None
    means = [abs(float(each.values.mean())) for each in tests.sample.entries]
    widest = limits[1] - limits[0] if np.isfinite(limits).all() else max(means)
    smallest = 1 / max(tests.sample.examples, 1000) if np.isfinite(limits).all() else 1e-6 * widest
    is_known = tests.sample.examples > 0 or any(np.ptp(each.values) > 0 for each in tests.sample.entries)
    if is_known and smallest <= least < widest:
        return least
    seeds = max(len(tests.sample.entries[n].values) for n in {*tests.sample.first, *tests.sample.second})
    return f"cannot be estimated from {seeds} seed{'' if seeds == 1 else 's'}"


def outcome(against_baseline: Comparison) -> str:
    """Return whether an entry is significantly better than its baseline."""
    return BETTER if against_baseline.differs and against_baseline.difference > 0 else NOT_BETTER


def rank_tasks(entries: Sequence[BoardEntry], groups: Sequence[str]) -> list[Ranking]:
    """Return the ranking of each board and task, in the entries' order; without letters `top` has only the best."""
    tasks = grouped(range(len(entries)), lambda number: (entries[number].board, entries[number].task))
    return [_ranking(members, entries, groups) for members in tasks.values()]


def _ranking(members: Sequence[int], entries: Sequence[BoardEntry], groups: Sequence[str]) -> Ranking:
    failed = [number for number in members if entries[number].score is None]
    baselines = [number for number in members if entries[number].is_baseline]
    scored = [number for number in members if entries[number].is_ranked]
    ranked = sorted(scored, key=lambda number: -(entries[number].score or 0))  # an error's score is negative
    letters = set(groups[ranked[0]]) if ranked else set()
    top = [number for number in ranked if letters & set(groups[number])] or ranked[:1]
    worse = [number for number in ranked if groups[number] and number not in top] if letters else []
    board, task = entries[members[0]].board, entries[members[0]].task
    of_groups = {number: groups[number] for number in ranked}
    return Ranking(board, task, ranked, top, worse, failed, bool(letters), baselines, of_groups)


def _comparisons(members: Sequence[int], tests: Contrast, adjusted: np.ndarray, limits: Range) -> list[Comparison]:
    """Return the tests with intervals that end where a difference of two scores does.

    The true difference is never beyond, so that the interval contains it as often as before.
    """
    sample = tests.sample
    half, widest = half_width(ALPHA, tests), limits[1] - limits[0]
    comparisons = []
    for n in np.flatnonzero(~np.isnan(tests.p)):
        first, second, difference = int(sample.first[n]), int(sample.second[n]), float(tests.difference[n])
        comparisons.append(
            Comparison(
                first=members[first],
                second=members[second],
                difference=difference,
                error=float(half[n]) / Z,
                low=max(difference - float(half[n]), -widest),
                high=min(difference + float(half[n]), widest),
                p=float(tests.p[n]),
                p_holm=float(adjusted[n]),
                differs=bool(adjusted[n] <= ALPHA),
                test=tests.test[n],
                examples=0 if tests.test[n] == SEEDS else sample.examples,
                seeds=min(each.seeds for each in (sample.entries[first], sample.entries[second]) if not each.is_fixed),
            )
        )
    return comparisons


def _set_groups(groups: list[str], members: Sequence[int], comparisons: Sequence[Comparison]) -> None:
    compared = {number for c in comparisons for number in (c.first, c.second)}
    ranked = [number for number in members if number in compared]
    differing = [(ranked.index(c.first), ranked.index(c.second)) for c in comparisons if c.differs]
    for number, text in zip(ranked, compact_letters(len(ranked), differing), strict=True):
        groups[number] = text


def _records(entries: Sequence[BoardEntry], comparisons: Sequence[Comparison]) -> Records:
    records: Records = {}
    for c in comparisons:
        one, other = entries[c.first], entries[c.second]
        for key, result in (((one.board, one.label, other.label), 0), ((one.board, other.label, one.label), 2)):
            count = list(records.get(key, (0, 0, 0)))
            count[result if c.differs else 1] += 1
            records[key] = (count[0], count[1], count[2])
    return records


def _notes(entries: Sequence[BoardEntry], tests: Contrast, against: Contrast) -> list[str]:
    """Return sentences about what a task's tests, of methods and against baselines, do not include."""
    kinds = set(tests.test)
    is_tested = any([*tests.test, *against.test])
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
            (names and is_tested, f"{reason}, so tested over seeds only: {listed(names)}.")
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
