"""Tests of every pair of a task's entries, over new seeds and new examples at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from peftkit.leaderboard.seeds import BINS, Array, PriorState, difference_variances, prior_states

ALPHA, POWER = 0.05, 0.8
BINS_IN_SUM = 8
MAX_STEPS, TOLERANCE = 100, 1e-12  # of Newton's method; relative
SEEDS_AND_EXAMPLES, EXAMPLES, SEEDS, MCNEMAR = "seeds, examples", "bootstrap", "seeds only", "McNemar"
TESTS = {  # by (generalizes to new seeds, generalizes to new examples)
    (True, True): SEEDS_AND_EXAMPLES, (True, False): SEEDS, (False, True): EXAMPLES, (False, False): "",
}  # fmt: skip


@dataclass(frozen=True)
class EntrySample:
    """The task score of an entry by seed, and by resample of its examples where its predictions are known."""

    values: Array  # (seeds,)
    resampled: Array | None = None  # (resamples, seeds)
    right: Array | None = None  # (examples,) where the score is the accuracy of one seed
    is_fixed: bool = False  # a constant answer, equal in every seed

    @property
    def seeds(self) -> int:
        """Return the number of seeds, 0 where there is no randomness."""
        return 0 if self.is_fixed else len(self.values)


@dataclass(frozen=True)
class TaskSample:
    """The entries of one task that have a score, best first, and why some are excluded from tests over examples."""

    entries: list[EntrySample]
    examples: int  # common to the predictions, 0 without any
    first: Array  # (pairs,) the pairs to test
    second: Array
    left_out: dict[str, list[str]] = field(default_factory=dict)  # reason -> entries
    not_resampled: list[str] = field(default_factory=list)  # metrics that cannot be resampled


@dataclass(frozen=True)
class Contrast:
    """The tests of a task's pairs."""

    sample: TaskSample
    difference: Array
    variances: Array  # (pairs, bins) possible values of the variance of the difference
    weights: Array  # (pairs, bins)
    freedom: Array  # (pairs,)
    p: Array
    test: list[str]

    def select(self, pairs: Array) -> "Contrast":
        """Return the tests of the pairs that are true in `pairs`."""
        sample = replace(self.sample, first=self.sample.first[pairs], second=self.sample.second[pairs])
        kept = {name: getattr(self, name)[pairs] for name in ("difference", "variances", "weights", "freedom", "p")}
        return Contrast(sample, **kept, test=[self.test[n] for n in np.flatnonzero(pairs)])


def contrast(samples: Sequence[TaskSample]) -> list[Contrast]:
    """Test the pairs of every task of a board; pairs that cannot be tested have p = nan and no test.

    The difference of two mean scores is compared with its standard error over new examples (paired bootstrap) and new
    seeds; the seeds' variance is a distribution, from `seeds.prior_states`, and p the mean over it (Behrens-Fisher).
    """
    variances = [np.array([_variance(e.values, sample.examples) for e in sample.entries]) for sample in samples]
    counts = [np.array([e.seeds for e in sample.entries]) for sample in samples]
    states = prior_states(variances, counts)
    return [_contrast(*each) for each in zip(samples, states, variances, counts, strict=True)]


def _contrast(sample: TaskSample, states: list[PriorState], variances: Array, seeds: Array) -> Contrast:
    first, second = sample.first, sample.second
    known = np.array([e.resampled is not None for e in sample.entries])
    both = known[first] & known[second]
    shared, between = _over_examples(sample, known)
    variance = between[first, first] + between[second, second] - 2 * between[first, second]
    variance = np.where(both, np.maximum(variance, 0), 0.0)
    # the bootstrap's variance is itself an estimate, from that many resamples of that many examples
    least = min([sample.examples, *(len(e.resampled) for e in sample.entries if e.resampled is not None)])
    freedom = np.where(both, max(least - 1, 1), 1e9)
    bin_means, weights = np.empty((2, len(both), BINS if states else 1))
    # without predictions of both, the whole variance over seeds is attributed to the seeds
    for pairs, within in ((both, shared), (~both, np.zeros_like(shared))):
        if pairs.any():
            bin_means[pairs], weights[pairs] = difference_variances(
                states, variances, seeds, within, variance[pairs], first[pairs], second[pairs]
            )
    # numpy sums up to 128 numbers in eights, so that a pair's sums do not depend, to the bit, on other pairs' bins
    used = BINS_IN_SUM * -(-(1 + int(np.flatnonzero(weights.any(0)).max(initial=0))) // BINS_IN_SUM)
    bin_means, weights = bin_means[:, :used].copy(), weights[:, :used].copy()
    means = np.array([e.values.mean() for e in sample.entries])
    difference = means[first] - means[second]
    names = [TESTS[bool(states), bool(each)] for each in both]
    p = p_value(np.abs(difference), bin_means, weights, freedom)
    p = np.where([bool(name) for name in names], np.where(np.abs(difference) < 1e-12, 1.0, np.minimum(p, 1.0)), np.nan)
    for index in np.flatnonzero(both) if not states else []:
        one, other = (sample.entries[pair[index]].right for pair in (first, second))
        if one is not None and other is not None:
            p[index] = mcnemar_p(one, other)
            names[index] = MCNEMAR
    return Contrast(sample, difference, bin_means, weights, freedom, p, names)


def mcnemar_p(first: Array, second: Array) -> float:
    """Return the exact p-value of two runs having the same accuracy (Dietterich 1998, section 3.1)."""
    from peftkit.compat.scipy import binomial_cdf

    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    return min(2 * binomial_cdf(min(only_first, only_second), only_first + only_second, 0.5), 1.0)


def _variance(values: Array, examples: int) -> float:
    """Return the sample variance over seeds, plus that of rounding: discrete scores may have a variance of zero."""
    rounding = (1 / max(examples, 1000)) ** 2 / 12
    return float(np.var(values, ddof=1)) + rounding if len(values) > 1 else np.nan


def _over_examples(sample: TaskSample, known: Array) -> tuple[Array, Array]:
    """Return (entries,) the variance of a seed over examples and (entries, entries) covariances, 0 where not known."""
    within, between = np.zeros(len(known)), np.zeros((len(known),) * 2)
    if known.any():
        means = [e.resampled.mean(1) for e in sample.entries if e.resampled is not None]
        between[np.ix_(known, known)] = np.atleast_2d(np.cov(np.array(means)))
    for index, entry in enumerate(sample.entries):
        if entry.resampled is not None and len(entry.values) > 1:
            within[index] = np.var(entry.resampled - entry.resampled.mean(1, keepdims=True), axis=0, ddof=1).sum()
            within[index] /= len(entry.values) - 1  # not shared by seeds
    return within, between


def p_value(distance: Array, variances: Array, weights: Array, freedom: Array) -> Array:
    """Return the two-sided p-value of a difference at this distance under the null hypothesis."""
    from scipy.special import ndtr

    return 2 * (weights * ndtr(-_z(distance, variances, freedom))).sum(1)


def _z(distance: Array, variances: Array, freedom: Array) -> Array:
    """Return (pairs, bins): the normal quantile with the p-value of each distance."""
    z, n = distance[:, None] / np.sqrt(np.maximum(variances, 1e-30)), freedom[:, None]
    # normal approximation of Student's t (Abramowitz & Stegun 1964, 26.7.8), a hundred times as fast as scipy's t
    return z * (1 - 1 / (4 * n)) / np.sqrt(1 + z**2 / (2 * n))


def half_width(level: float, contrast: Contrast) -> Array:
    """Return the half width (pairs,) of the interval: the distance whose p-value is `level`.

    Newton's method on the normal quantile of the p-value, which is nearly linear in the distance.
    """
    from scipy.special import ndtr, ndtri

    spread, n = np.sqrt(np.maximum(contrast.variances, 1e-30)), contrast.freedom[:, None]
    most = 1e3 * spread.max(1)  # with few degrees of freedom no distance has a small p-value
    goal = -float(ndtri(level / 2))
    # at most the solution: p is at least that of one bin, or of the least variance
    of_bins = spread * -ndtri(level / 2 / np.maximum(contrast.weights, level))
    found = np.maximum(of_bins.max(1), goal * np.where(contrast.weights > 0, spread, np.inf).min(1))
    for _ in range(MAX_STEPS):
        z = _z(found, contrast.variances, contrast.freedom)
        quantile = -ndtri((contrast.weights * ndtr(-z)).sum(1))
        of_each = z / found[:, None] / (1 + (found[:, None] / spread) ** 2 / (2 * n))  # slopes
        slope = (contrast.weights * of_each * np.exp((quantile[:, None] ** 2 - z**2) / 2)).sum(1)
        step = np.clip((goal - quantile) / slope, -found / 2, found)  # a mixture of far variances has plateaus
        before, found = found, np.minimum(found + step, most)
        if (np.abs(found - before) <= TOLERANCE * found).all():
            break
    return found


def detectable(contrast: Contrast, comparisons: int) -> float | None:
    """Return the minimum detectable difference of this task's tests at 80 % power, None where no pair is tested.

    It is the median over pairs, at Holm's first step: the one difference among `comparisons` (Card et al. 2020).
    """
    tested = ~np.isnan(contrast.p)
    if not tested.any():
        return None
    differences = half_width(ALPHA / comparisons, contrast) + half_width(2 * (1 - POWER), contrast)
    return float(np.median(differences[tested]))


def holm(p: Array) -> Array:
    """Return p-values with Holm's correction over all that were tested; nan stays nan."""
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # nan is last
    adjusted = p.copy()
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted


def all_pairs(count: int, limit: int, most: int) -> tuple[Array, Array]:
    """Return all pairs of the first `limit` entries; the others, up to `most`, are paired with the best only."""
    first, second = np.triu_indices(min(count, limit), 1)
    beyond = np.arange(limit, min(count, most))
    return np.concatenate([first, np.zeros_like(beyond)]), np.concatenate([second, beyond])
