"""Turn labels, the predictions of several runs and weights of the examples into scores: one a resample and run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray

# All take labels (examples,), predictions (runs, examples) and weights (resamples, examples), how often each resample
# has each example, and return (resamples, runs). Weights of one give what peftkit.metrics gives.


def accuracy(labels: Array, predictions: Array, weights: Array) -> Array:
    return _share(weights @ (predictions == labels).T, weights.sum(1, keepdims=True))


def f1(labels: Array, predictions: Array, weights: Array) -> Array:
    """Class 1 where a run and the labels know only 0 and 1, else the mean over classes."""
    is_binary = np.isin(labels, (0, 1)).all() & np.isin(predictions, (0, 1)).all(1)
    found = np.empty((len(weights), len(predictions)))
    found[:, is_binary] = _f1_of(1, labels, predictions[is_binary], weights)
    if not is_binary.all():
        found[:, ~is_binary] = macro_f1(labels, predictions[~is_binary], weights)
    return found


def macro_f1(labels: Array, predictions: Array, weights: Array) -> Array:
    """The mean over the classes that a resample has, among labels or predictions."""
    found = np.stack([_f1_of(c, labels, predictions, weights, np.nan) for c in _classes(labels, predictions)])
    return np.nansum(found, 0) / np.maximum((~np.isnan(found)).sum(0), 1)


def _f1_of(which: Any, labels: Array, predictions: Array, weights: Array, absent: float = 0.0) -> Array:
    said, true = predictions == which, labels == which
    both = weights @ said.T + (weights @ true)[:, None]
    return _share(2 * (weights @ (said & true).T), both, absent)


def matthews_correlation(labels: Array, predictions: Array, weights: Array) -> Array:
    """The covariance form, for any number of classes (Gorodkin 2004); 0 where it is not defined."""
    n = weights.sum(1, keepdims=True)
    classes = _classes(labels, predictions)
    true = [(weights @ (labels == c))[:, None] for c in classes]
    said = [weights @ (predictions == c).T for c in classes]
    covariance = n * (weights @ (predictions == labels).T) - sum(t * s for t, s in zip(true, said, strict=True))
    spread = (n**2 - sum(t**2 for t in true)) * (n**2 - sum(s**2 for s in said))
    return _share(covariance, np.sqrt(np.maximum(spread, 0)))


def pearson(labels: Array, predictions: Array, weights: Array) -> Array:
    """0 where labels or predictions are one number."""
    n = weights.sum(1, keepdims=True)
    x, y = labels - np.mean(labels), (predictions - np.mean(predictions, 1, keepdims=True)).T  # large means cost digits
    mean_x, mean_y = (weights @ x)[:, None] / n, (weights @ y) / n
    covariance = weights @ (x[:, None] * y) / n - mean_x * mean_y
    spread = ((weights @ x**2)[:, None] / n - mean_x**2) * (weights @ y**2 / n - mean_y**2)
    return _share(covariance, np.sqrt(np.where(spread > 1e-18, spread, 0)))


def spearman(labels: Array, predictions: Array, weights: Array) -> Array:
    """Pearson's of the ranks within each resample, ties at their mean rank."""
    middle = (weights.sum(1, keepdims=True) + 1) / 2  # the mean of n ranks, tied or not
    true = _ranks(labels, weights) - middle
    weighted = weights * true
    own = (weighted * true).sum(1)
    found = []
    for run in predictions:
        said = _ranks(run, weights) - middle
        spread = own * (weights * said * said).sum(1)
        found.append(_share((weighted * said).sum(1), np.sqrt(spread)))
    return np.stack(found, 1)


def mean_squared_error(labels: Array, predictions: Array, weights: Array) -> Array:
    return _share(weights @ ((predictions - labels) ** 2).T, weights.sum(1, keepdims=True))


def token_accuracy(labels: Array, predictions: Array, weights: Array) -> Array:
    """Right words by all words, of what `count_tags` counted."""
    return _share(weights @ predictions.T, (weights @ labels)[:, None])


def bits_per_byte(labels: Array, predictions: Array, weights: Array) -> Array:
    return _share((weights * labels) @ predictions.T, (weights @ labels)[:, None])


def recall_at_1(labels: Array, predictions: Array, weights: Array) -> Array:
    return _mean(predictions <= 1, weights)


def recall_at_5(labels: Array, predictions: Array, weights: Array) -> Array:
    return _mean(predictions <= 5, weights)


def recall_at_10(labels: Array, predictions: Array, weights: Array) -> Array:
    return _mean(predictions <= 10, weights)


def mrr(labels: Array, predictions: Array, weights: Array) -> Array:
    return _mean(1 / predictions, weights)


def ndcg_at_10(labels: Array, predictions: Array, weights: Array) -> Array:
    return _mean((predictions <= 10) / np.log2(1 + predictions), weights)


def reward_accuracy(labels: Array, predictions: Array, weights: Array) -> Array:
    return _mean((np.sign(predictions) + 1) / 2, weights)


def reward_margin(labels: Array, predictions: Array, weights: Array) -> Array:
    return _mean(predictions, weights)


def count_tags(labels: Array, predictions: Array) -> tuple[Array, Array]:
    """Return (examples,) words and (runs, examples) right ones of lists of tags, -1 for none."""
    right: list[list[int]] = [[np.sum(np.equal(a, b)) for a, b in zip(labels, run, strict=True)] for run in predictions]
    return np.array([len(row) for row in labels], float), np.array(right, float)


def _ranks(values: Array, weights: Array) -> Array:
    """Return (resamples, examples): the mean rank of each example's value in each resample."""
    _, where = np.unique(values, return_inverse=True)
    order = np.argsort(where, kind="stable")
    counts = weights[:, order]
    starts = np.flatnonzero(np.diff(where[order], prepend=-1))
    if len(starts) < len(values):
        counts = np.add.reduceat(counts, starts, axis=1)
    return (np.cumsum(counts, axis=1) - (counts - 1) / 2)[:, where]


def _mean(values: Array, weights: Array) -> Array:
    """Return the weighted means of each run's values (runs, examples)."""
    return _share(weights @ values.T, weights.sum(1, keepdims=True))


def _classes(labels: Array, predictions: Array) -> Array:
    return np.union1d(labels, predictions)


def _share(part: Array, whole: Array, otherwise: float = 0.0) -> Array:
    """Divide, where there is something to divide by."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, otherwise), where=whole > 0)


WEIGHTED: dict[str, Callable[[Array, Array, Array], Array]] = {
    "accuracy": accuracy, "f1": f1, "macro_f1": macro_f1, "matthews_correlation": matthews_correlation,
    "pearson": pearson, "spearman": spearman, "mean_squared_error": mean_squared_error,
    "token_accuracy": token_accuracy, "bits_per_byte": bits_per_byte, "recall_at_1": recall_at_1,
    "recall_at_5": recall_at_5, "recall_at_10": recall_at_10, "mrr": mrr, "ndcg_at_10": ndcg_at_10,
    "reward_accuracy": reward_accuracy, "reward_margin": reward_margin,
}  # fmt: skip
ERRORS = {"mean_squared_error", "bits_per_byte"}  # less is better
