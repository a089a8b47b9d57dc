"""Tests of every pair of a task's entries, over new seeds and new examples at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftkit.leaderboard.seeds import prior_states, totals

Array = np.ndarray
ALPHA, POWER = 0.05, 0.8
SEEDS_AND_EXAMPLES, EXAMPLES, SEEDS, MCNEMAR = "seeds, examples", "bootstrap", "seeds alone", "McNemar"


@dataclass(frozen=True)
class Entry:
    """The task score of a board's entry by seed, and by resample of its examples where its predictions are known."""

    values: Array  # (seeds,)
    resampled: Array | None  # (resamples, seeds)


@dataclass(frozen=True)
class Cell:
    """The entries of one task that have a score, best first."""

    entries: list[Entry]
    examples: int  # common to the predictions, 0 without any
    first: Array  # (pairs,) the pairs to test
    second: Array
    right: list[Array | None] | None = None  # (examples,) of each entry, where the score is the accuracy of one seed


@dataclass(frozen=True)
class Contrast:
    """The tests of a cell's pairs."""

    first: Array
    second: Array
    difference: Array
    variances: Array  # (pairs, bins) possible values of the variance of the difference
    weights: Array  # (pairs, bins)
    freedom: Array  # (pairs,)
    p: Array
    test: list[str]
    over_examples: Array  # (pairs,) whether the test generalizes to new examples


def contrast(cells: Sequence[Cell]) -> list[Contrast]:
    """Test the pairs of every cell of a board; pairs that cannot be tested have p = nan and no test.

    The difference of two mean scores is compared with its standard error over new examples (paired bootstrap) and new
    seeds; the seeds' variance is a distribution, from `seeds.prior_states`, and p the mean over it (Behrens-Fisher).
    """
    variances = [np.array([_variance(e.values, cell.examples) for e in cell.entries]) for cell in cells]
    counts = [np.array([len(e.values) for e in cell.entries]) for cell in cells]
    states = prior_states(variances, counts)
    return [_contrast(*each) for each in zip(cells, states, variances, counts, strict=True)]


def _contrast(cell: Cell, states: list, variances: Array, seeds: Array) -> Contrast:
    means = np.array([e.values.mean() for e in cell.entries])
    inner, among, known = _over_examples(cell)
    both = known[cell.first] & known[cell.second]
    variance = among[cell.first, cell.first] + among[cell.second, cell.second] - 2 * among[cell.first, cell.second]
    variance = np.where(both, np.maximum(variance, 0), 0.0)
    width = [len(e.resampled) for e in cell.entries if e.resampled is not None]
    # the bootstrap's variance is itself an estimate, from that many resamples of that many examples
    freedom = np.where(both, max(min([cell.examples, *width]) - 1, 1), 1e9)
    middle, weights = np.zeros((len(both), 1)), np.ones((len(both), 1))
    if len(both):
        # without predictions of both, the whole variance over seeds counts as that of the seeds
        middle, weights = _totals(cell, states, variances, seeds, inner, variance, both)
    difference = means[cell.first] - means[cell.second]
    names = [_name(bool(states), bool(b)) for b in both]
    p = tail(np.abs(difference), middle, weights, freedom)
    p = np.where([bool(name) for name in names], np.where(np.abs(difference) < 1e-12, 1.0, np.minimum(p, 1.0)), np.nan)
    if not states and cell.right is not None:
        for place in np.flatnonzero(both):
            p[place] = _mcnemar(cell.right[cell.first[place]], cell.right[cell.second[place]])
            names[place] = MCNEMAR
    return Contrast(cell.first, cell.second, difference, middle, weights, freedom, p, names, both)


def _totals(
    cell: Cell, states: list, variances: Array, seeds: Array, inner: Array, variance: Array, both: Array
) -> tuple[Array, Array]:
    middle: Array | None = None
    weights: Array | None = None
    for pairs, within in ((both, inner), (~both, np.zeros_like(inner))):
        if pairs.any():
            some, chance = totals(
                states, variances, seeds, within, variance[pairs], cell.first[pairs], cell.second[pairs]
            )
            if middle is None or weights is None:
                middle, weights = np.zeros((len(both), some.shape[1])), np.zeros((len(both), some.shape[1]))
            middle[pairs], weights[pairs] = some, chance
    assert middle is not None and weights is not None
    return middle, weights


def _name(has_seeds: bool, has_examples: bool) -> str:
    if has_seeds:
        return SEEDS_AND_EXAMPLES if has_examples else SEEDS
    return EXAMPLES if has_examples else ""


def _mcnemar(first: Array | None, second: Array | None) -> float:
    """Return the exact p-value of two runs having the same accuracy (Dietterich 1998, section 3.1)."""
    from statsmodels.stats.contingency_tables import mcnemar

    assert first is not None and second is not None
    counts: Any = [
        [(first & second).sum(), (first & ~second).sum()],
        [(~first & second).sum(), (~first & ~second).sum()],
    ]
    return min(float(mcnemar(counts, exact=True).pvalue), 1.0)


def _variance(values: Array, examples: int) -> float:
    """Return the sample variance over seeds, plus that of rounding: discrete scores may have a variance of zero."""
    step = 1 / max(examples, 1000)
    return float(np.var(values, ddof=1)) + step**2 / 12 if len(values) > 1 else np.nan


def _over_examples(cell: Cell) -> tuple[Array, Array, Array]:
    """Return (entries,) the variance of a seed over examples, (entries, entries) covariances, (entries,) known."""
    known = np.array([e.resampled is not None for e in cell.entries])
    inner = np.zeros(len(cell.entries))
    among = np.zeros((len(cell.entries),) * 2)
    means = [e.resampled.mean(1) for e in cell.entries if e.resampled is not None]
    if means:
        among[np.ix_(known, known)] = np.atleast_2d(np.cov(np.array(means)))
    for place, entry in enumerate(cell.entries):
        if entry.resampled is not None and len(entry.values) > 1:
            inner[place] = np.var(entry.resampled - entry.resampled.mean(1, keepdims=True), axis=0, ddof=1).sum()
            inner[place] /= len(entry.values) - 1  # not shared by seeds
    return inner, among, known


def tail(distance: Array, variances: Array, weights: Array, freedom: Array) -> Array:
    """Return the two-sided p-value of a difference at this distance under the null hypothesis."""
    from scipy.special import ndtr

    z = distance[:, None] / np.sqrt(np.maximum(variances, 1e-30))
    n = freedom[:, None]
    # normal approximation of Student's t (Abramowitz & Stegun 1964, 26.7.8), a hundred times as fast as scipy's t
    return 2 * (weights * ndtr(-z * (1 - 1 / (4 * n)) / np.sqrt(1 + z**2 / (2 * n)))).sum(1)


def reach(level: float, contrast: Contrast) -> Array:
    """Return the distance (pairs,) whose `tail` is `level`: an interval's half width."""
    spread = np.sqrt(np.maximum(contrast.variances, 1e-30))
    low, high = spread.min(1) * 1e-3, spread.max(1) * 1e3
    for _ in range(50):
        middle = np.sqrt(low * high)
        beyond = tail(middle, contrast.variances, contrast.weights, contrast.freedom) > level
        low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
    return high


def detectable(contrast: Contrast, comparisons: int) -> float | None:
    """Return the minimum detectable difference of this cell's tests at 80 % power, None where nothing is tested.

    It is the median over pairs, at Holm's first step: the one difference among `comparisons` (Card et al. 2020).
    """
    tested = ~np.isnan(contrast.p)
    if not tested.any():
        return None
    differences = reach(ALPHA / comparisons, contrast) + reach(2 * (1 - POWER), contrast)
    return float(np.median(differences[tested]))


def holm(p: Array) -> Array:
    """Return p-values with Holm's correction over all that were tested; nan stays nan."""
    from statsmodels.stats.multitest import multipletests

    adjusted, tested = p.copy(), ~np.isnan(p)
    if tested.any():
        adjusted[tested] = multipletests(p[tested], method="holm")[1]
    return adjusted


def all_pairs(count: int, limit: int, most: int) -> tuple[Array, Array]:
    """Return all pairs of the first `limit` entries; the others, up to `most`, are paired with the best alone."""
    first, second = np.triu_indices(min(count, limit), 1)
    beyond = np.arange(limit, min(count, most))
    return np.concatenate([first, np.zeros_like(beyond)]), np.concatenate([second, beyond])
