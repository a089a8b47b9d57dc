"""Metrics of numbers."""

from __future__ import annotations

import numpy as np

from peftkit.metrics.registry import Array, Scorer, divide, mean, metric

NOISE = 1e-18  # product of the variances of standardized numbers below which a resample is constant


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

    def scores(weights: Array) -> Array:
        middle = (weights.sum(1, keepdims=True) + 1) / 2  # the mean of n ranks, tied or not
        true = _ranks(labels, weights) - middle
        columns = []
        for run in predictions:
            ranks = _ranks(run, weights) - middle
            spread = (weights * true**2).sum(1) * (weights * ranks**2).sum(1)
            columns.append(divide((weights * true * ranks).sum(1), np.sqrt(spread)))
        return np.stack(columns, 1)

    return scores


@metric("numbers", range=(0, np.inf), higher_is_better=False)
def mean_squared_error(labels: Array, predictions: Array) -> Scorer:
    """Mean of the squared differences, in the label's unit squared."""
    return mean((predictions - labels) ** 2)


def _standardized(values: Array) -> Array:
    """Return each row of (runs, examples) with mean 0 and variance 1, or 0s where it is constant."""
    centered = values - values.mean(1, keepdims=True)
    return divide(centered, np.where(np.ptp(values, 1) > 0, centered.std(1), 0)[:, None])


def _ranks(values: Array, weights: Array) -> Array:
    """Return (resamples, examples): the mean rank of each example's value in each resample."""
    _, where = np.unique(values, return_inverse=True)
    order = np.argsort(where, kind="stable")
    counts = weights[:, order]
    starts = np.flatnonzero(np.diff(where[order], prepend=-1))
    if len(starts) < len(values):
        counts = np.add.reduceat(counts, starts, axis=1)
    return (np.cumsum(counts, axis=1) - (counts - 1) / 2)[:, where]
