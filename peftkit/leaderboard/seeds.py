"""The posterior of the variance over seeds, from the sample variances of all entries of a board.

Three seeds give a poor estimate of a variance, methods differ in variance, and a test with the plug-in estimate has too
many false positives. Therefore variances are shrunk by empirical Bayes as in Smyth 2004 (section 3): an entry's true
variance has a scaled inverse chi-square prior around its task's variance. The prior's degrees of freedom are integrated
out, weighted by the likelihood of the board's sample variances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

Array = np.ndarray
DEGREES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # of the prior, in degrees of freedom
SCALES, NODES = 17, 25  # numbers of grid points of the numerical integrals
PAIRS = 32  # in a block of `difference_variances`
BINS, STEP = 160, 0.15  # of variances, in steps of their logarithm; the last bin has all larger ones
MIN_WEIGHT = 1e-6  # states of less weight are dropped, far below any p-value of interest


@dataclass(frozen=True)
class PriorState:
    """One state of the prior: its degrees of freedom, its scale (the task's variance), and its posterior weight."""

    weight: float
    degrees: float
    scale: float


def prior_states(variances: Sequence[Array], seeds: Sequence[Array]) -> list[list[PriorState]]:
    """Return for each task the states of its prior with their weights; none for a task without a second seed.

    Args:
        variances: a task's (entries,) sample variances over seeds; ignored where there is one seed.
        seeds: a task's (entries,) numbers of seeds.
    """
    grids = [_likelihoods(v[n > 1], n[n > 1] - 1) for v, n in zip(variances, seeds, strict=True)]
    # the hyperprior 1 / degrees prefers different variances
    shared = sum((np.logaddexp.reduce(grid[1], axis=1) for grid in grids if grid), start=-np.log(DEGREES))
    shared = np.exp(shared - shared.max())
    return [_states(*grid, shared / shared.sum()) if grid else [] for grid in grids]


def _states(scales: Array, likelihood: Array, shared: Array) -> list[PriorState]:
    within = np.exp(likelihood - np.logaddexp.reduce(likelihood, axis=1)[:, None])
    weights = within * shared[:, None]
    return [
        PriorState(float(weights[d, s]), DEGREES[d], float(scales[s])) for d, s in np.argwhere(weights > MIN_WEIGHT)
    ]


def _likelihoods(variances: Array, freedom: Array) -> tuple[Array, Array] | None:
    """Return scales and the log likelihood (degrees, scales): variance / scale follows F(freedom, degrees)."""
    from scipy.special import betaln

    if not len(variances):
        return None
    logs = np.log(variances)
    scales = np.linspace(logs.min() - 3, logs.max() + 5, SCALES)
    d, n = np.array(DEGREES)[:, None, None], freedom[:, None]
    ratio = n * np.exp(logs[:, None] - scales)
    each = n / 2 * np.log(ratio) + d / 2 * np.log(d) - (n + d) / 2 * np.log(ratio + d) - betaln(n / 2, d / 2)
    return np.exp(scales), each.sum(1)


def difference_variances(
    states: Sequence[PriorState],
    variances: Array,
    seeds: Array,
    within: Array,
    examples: Array,
    first: Array,
    second: Array,
) -> tuple[Array, Array]:
    """Return the possible variances of each pair's difference and their weights: two times (pairs, bins).

    Each is the variance of examples plus, for each entry, the variance of seeds that its examples do not explain (the
    two-way split of Obuchowski & Rockette 1995 for readers and cases; at least the variance of the examples).

    Args:
        variances, seeds: (entries,) as in `prior_states`; 0 seeds of an entry that is the same in each.
        within: (entries,) the part of the variance over seeds that is due to the examples, to be counted once.
        examples: (pairs,) variance of the difference over examples.
        first, second: (pairs,) entries.
    """
    if not states:
        return examples[:, None], np.ones((len(examples), 1))
    added = [_seed_variance(state, variances, seeds, within) for state in states]
    lowest = [float((examples + variance.min(1)[first] + variance.min(1)[second]).min()) for variance, _ in added]
    least = max(min(lowest), 1e-15)
    weight_sums, sums = np.zeros((2, len(first) * BINS))
    for start in range(0, len(first), PAIRS):  # so that the arrays below fit in the CPU's cache
        pairs, of_bins = slice(start, start + PAIRS), slice(start * BINS, (start + PAIRS) * BINS)
        one, other, of_examples = first[pairs], second[pairs], examples[pairs, None, None]
        starts: Array = np.arange(len(one))[:, None, None] * BINS
        for state, (variance, node_weights) in zip(states, added, strict=True):
            total = np.maximum(of_examples + variance[one][:, :, None] + variance[other][:, None, :], least)
            weight = state.weight * node_weights[one][:, :, None] * node_weights[other][:, None, :]
            bins = (starts + np.minimum((np.log(total / least) / STEP).astype(int), BINS - 1)).ravel()
            weight_sums[of_bins] += np.bincount(bins, weight.ravel(), len(one) * BINS)
            sums[of_bins] += np.bincount(bins, (weight * total).ravel(), len(one) * BINS)
    bin_means = np.divide(sums, weight_sums, out=np.full(sums.shape, least), where=weight_sums > 0).reshape(-1, BINS)
    weights = weight_sums.reshape(-1, BINS)
    return bin_means, weights / weights.sum(1, keepdims=True)


def _seed_variance(state: PriorState, variances: Array, seeds: Array, within: Array) -> tuple[Array, Array]:
    """Return (entries, nodes): the variance that an entry's seeds add to that of its mean score, and the weights."""
    squares = np.where(seeds > 1, (seeds - 1) * variances, 0.0)
    freedom = state.degrees + np.maximum(seeds, 1) - 1
    expected = (state.degrees * state.scale + squares) / freedom
    values, weights = np.array([_inverse_chi_square(float(each)) for each in freedom]).swapaxes(0, 1)
    added = np.maximum(expected[:, None] * values - within[:, None], 0) / np.maximum(seeds, 1)[:, None]
    return np.where(seeds[:, None] > 0, added, 0.0), weights


@cache
def _inverse_chi_square(freedom: float) -> tuple[Array, Array]:
    """Return values of freedom / chi-square(freedom) and their weights, evenly spaced in the logarithm."""
    from scipy.special import gammaincinv, gammaln, xlogy  # as in scipy.stats.chi2, whose import takes half a second

    half = freedom / 2
    least, most = np.log(2 * gammaincinv(half, [1e-9, 1 - 1e-9]) / freedom)
    logs = np.linspace(least, most, NODES)
    values = np.exp(logs) * freedom
    density = np.exp(xlogy(half - 1, values) - values / 2 - gammaln(half) - np.log(2) * freedom / 2)
    weights = density * np.exp(logs)
    return np.exp(-logs), weights / weights.sum()
