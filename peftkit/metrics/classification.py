"""Metrics of class ids."""

import numpy as np

from peftkit.metrics.registry import Array, Scorer, divide, mean, metric, ratio


@metric("classes")
def accuracy(labels: Array, predictions: Array) -> Scorer:
    """Share of correct predictions."""
    return mean(predictions == labels)


@metric("classes")
def f1(labels: Array, predictions: Array) -> Scorer:
    """F1 of class 1, as GLUE reports for MRPC and QQP; macro F1 of a run with other classes than 0 and 1."""
    is_binary = np.isin(labels, (0, 1)).all() & np.isin(predictions, (0, 1)).all(1)
    of_one, of_all = _f1_of(1, labels, predictions, 0.0), macro_f1(labels, predictions)
    return lambda weights: of_one(weights) if is_binary.all() else np.where(is_binary, of_one(weights), of_all(weights))


@metric("classes")
def macro_f1(labels: Array, predictions: Array) -> Scorer:
    """Mean of the F1 of each class among the labels or the run's predictions."""
    classes = [_f1_of(each, labels, predictions, np.nan) for each in np.union1d(labels, predictions)]

    def scores(weights: Array) -> Array:
        each = np.stack([scorer(weights) for scorer in classes])
        return np.nansum(each, 0) / np.maximum((~np.isnan(each)).sum(0), 1)

    return scores


@metric("classes", range=(-1, 1))
def matthews_correlation(labels: Array, predictions: Array) -> Scorer:
    """Matthews correlation of any number of classes (Gorodkin 2004), as GLUE reports for CoLA; 0 where undefined."""
    classes = np.union1d(labels, predictions)

    def scores(weights: Array) -> Array:
        n = weights.sum(1, keepdims=True)
        true = [(weights @ (labels == each))[:, None] for each in classes]
        predicted = [weights @ (predictions == each).T for each in classes]
        product = sum(t * p for t, p in zip(true, predicted, strict=True))
        spread = (n**2 - sum(t**2 for t in true)) * (n**2 - sum(p**2 for p in predicted))
        return divide(n * (weights @ (predictions == labels).T) - product, np.sqrt(np.maximum(spread, 0)))

    return scores


def _f1_of(which: int, labels: Array, predictions: Array, absent: float) -> Scorer:
    predicted, true = predictions == which, labels == which
    return ratio(2 * (predicted & true), predicted.astype(int) + true, absent)
