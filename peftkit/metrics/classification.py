"""Metrics of class ids."""

import numpy as np

from peftkit.metrics.registry import Array, Scorer, divide, mean, metric, ratio


@metric("classes")
def accuracy(labels: Array, predictions: Array) -> Scorer:
    """Share of correct predictions."""
    return mean(predictions == labels)


@metric("classes")
def f1(labels: Array, predictions: Array, classes: int) -> Scorer:
    """F1 of the second class of two, as GLUE reports for MRPC and QQP; of other numbers of classes macro F1."""
    return _f1_of(1, labels, predictions, 0.0) if classes == 2 else macro_f1(labels, predictions, classes)


@metric("classes")
def macro_f1(labels: Array, predictions: Array, classes: int) -> Scorer:
    """Mean of the F1 of all classes of the task; 0 for one that no example has."""
    # a resample without the examples of a class leaves it out
    scorers = [_f1_of(each, labels, predictions, np.nan if each in labels else 0.0) for each in range(classes)]

    def scores(weights: Array) -> Array:
        each = np.stack([scorer(weights) for scorer in scorers])
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
