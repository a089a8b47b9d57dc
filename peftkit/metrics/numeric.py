"""Metrics of numbers: likelihoods, preferences, ranks of the one relevant document for each query, and regression."""

import numpy as np

from peftkit.metrics.registry import Array, Scorer, divide, mean, metric, ratio

LARGEST_EXPONENT = 700.0  # beyond it, a float overflows
NOISE = 1e-18  # product of the variances of standardized numbers below which a resample is constant


@metric("likelihoods", range=(1, np.inf), higher_is_better=False)
def perplexity(tokens: Array, nats: Array) -> Scorer:
    """Exponential of the mean negative log-likelihood of a token."""
    return lambda weights: np.exp(np.minimum(ratio(nats, tokens)(weights), LARGEST_EXPONENT))


@metric("likelihoods", range=(1, np.inf), higher_is_better=False, diagnostic=True)
def chosen_perplexity(tokens: Array, nats: Array) -> Scorer:
    """Perplexity of the chosen answers: it may rise while margins grow."""
    return perplexity(tokens, nats)


@metric("bytes", range=(0, np.inf), higher_is_better=False)
def bits_per_byte(sizes: Array, bits: Array) -> Scorer:
    """Bits for each byte of text, which compares models of different vocabularies."""
    return ratio(bits * sizes, sizes)


@metric("margins")
def reward_accuracy(labels: Array, margins: Array) -> Scorer:
    """Share of pairs whose chosen answer has the higher implicit reward; a tie counts half."""
    return mean((np.sign(margins) + 1) / 2)


@metric("margins", range=(-np.inf, np.inf), diagnostic=True)
def reward_margin(labels: Array, margins: Array) -> Scorer:
    """Mean of the chosen answer's implicit reward minus the rejected one's (Rafailov et al. 2023, section 4).

    It grows with every training step, so it is not part of a task's score.
    """
    return mean(margins)


@metric("ranks")
def recall_at_1(labels: Array, ranks: Array) -> Scorer:
    """Share of queries whose relevant document is the first."""
    return mean(ranks <= 1)


@metric("ranks")
def recall_at_5(labels: Array, ranks: Array) -> Scorer:
    """Share of queries whose relevant document is among the first five."""
    return mean(ranks <= 5)


@metric("ranks")
def recall_at_10(labels: Array, ranks: Array) -> Scorer:
    """Share of queries whose relevant document is among the first ten."""
    return mean(ranks <= 10)


@metric("ranks")
def mrr(labels: Array, ranks: Array) -> Scorer:
    """Mean reciprocal rank of the relevant document (Voorhees 1999)."""
    return mean(1 / ranks)


@metric("ranks")
def ndcg_at_10(labels: Array, ranks: Array) -> Scorer:
    """Mean of 1 / log2(1 + rank), 0 beyond the tenth (Järvelin and Kekäläinen 2002)."""
    return mean((ranks <= 10) / np.log2(1 + ranks))


@metric("numbers", range=(-1, 1))
def pearson(labels: Array, predictions: Array) -> Scorer:
    """Pearson correlation; 0 where labels or predictions are constant."""
    x, y = _standardized(labels[None]), _standardized(predictions)

    def scores(weights: Array) -> Array:
        n = weights.sum(1, keepdims=True)
        mean_x, mean_y = weights @ x.T / n, weights @ y.T / n
        spread = (weights @ x.T**2 / n - mean_x**2) * (weights @ y.T**2 / n - mean_y**2)
        return divide(weights @ (x * y).T / n - mean_x * mean_y, np.sqrt(np.where(spread > NOISE, spread, 0)))

    return scores


@metric("numbers", range=(-1, 1))
def spearman(labels: Array, predictions: Array) -> Scorer:
    """Spearman rank correlation, ties at their mean rank; 0 where labels or predictions are constant."""
    true, runs = _Order(labels), [_Order(run) for run in predictions]

    def scores(weights: Array) -> Array:
        counts = np.ascontiguousarray(weights.T)  # whole rows are faster to reorder
        total = counts.sum(0)
        tied = true.grouped(counts)
        ranks = (np.cumsum(tied, axis=0) - (tied - 1) / 2)[true.groups]
        centered = counts * (ranks - (total + 1) / 2)  # the mean of n ranks, tied or not
        cubes, true_spread = np.einsum("er,er,er->r", counts, counts, counts), _rank_spread(total, tied)
        columns, memory = [], np.empty((3, *counts.shape))  # allocating it for each run takes as long as the sums
        for run in runs:
            tied, weighted = run.grouped(counts, memory[0]), run.grouped(centered, memory[1])
            # the ranks are cumsum(tied) - (tied - 1) / 2, where 1 / 2 adds nothing, as `centered` has the sum 0
            products = np.einsum("er,er->r", weighted, np.cumsum(tied, axis=0, out=memory[2, : len(tied)]))
            products -= np.einsum("er,er->r", weighted, tied) / 2
            spread = _rank_spread(total, tied) if run.has_ties else (total * total * total - cubes) / 12
            columns.append(divide(products, np.sqrt(true_spread * spread)))
        return np.stack(columns, 1)

    return scores


@metric("numbers", range=(0, np.inf), higher_is_better=False)
def mean_squared_error(labels: Array, predictions: Array) -> Scorer:
    """Mean of the squared differences, in the label's unit squared."""
    return mean((predictions - labels) ** 2)


@metric("numbers", range=(-1, 1))
def quadratic_weighted_kappa(labels: Array, predictions: Array) -> Scorer:
    """Agreement of whole numbers beyond chance, weighted by squared distance (Cohen 1968); predictions are rounded."""
    true, rounded = np.rint(labels), np.rint(predictions)
    means, squares = mean(rounded), mean(rounded**2)
    distance, true_mean, true_square = mean((rounded - true) ** 2), mean(true[None]), mean(true[None] ** 2)

    def scores(weights: Array) -> Array:
        chance = true_square(weights) + squares(weights) - 2 * true_mean(weights) * means(weights)
        return np.where(chance > 0, 1 - divide(distance(weights), chance), 0.0)

    return scores


def _standardized(values: Array) -> Array:
    """Return each row of (runs, examples) with mean 0 and variance 1, or 0s where it is constant."""
    centered = values - values.mean(1, keepdims=True)
    return divide(centered, np.where(np.ptp(values, 1) > 0, centered.std(1), 0)[:, None])


class _Order:
    """The order of values, and the groups of equal ones."""

    def __init__(self, values: Array) -> None:
        _, self.groups = np.unique(values, return_inverse=True)  # (examples,)
        self.order = np.argsort(self.groups, kind="stable")
        self.starts = np.flatnonzero(np.diff(self.groups[self.order], prepend=-1))  # of each group in the order
        self.has_ties = len(self.starts) < len(self.order)

    def grouped(self, counts: Array, out: Array | None = None) -> Array:
        """Return the sums (groups, resamples) of (examples, resamples) over each group, in order."""
        counts = counts.take(self.order, axis=0, out=out, mode="clip")  # which writes to `out` without a copy
        return np.add.reduceat(counts, self.starts, axis=0) if self.has_ties else counts


def _rank_spread(total: Array, tied: Array) -> Array:
    """Return (resamples,) the sum of squares of centered mean ranks, from the sizes (groups, resamples) of the ties."""
    return (total * total * total - np.einsum("gr,gr,gr->r", tied, tied, tied)) / 12  # Kendall 1945
