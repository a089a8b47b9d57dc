"""Metrics of class ids, and of several labels for an example."""

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
    """Mean of the F1 of all classes of the task, also of several labels; 0 for a class that no example has."""
    # a resample without the examples of a class leaves it out
    occurs = [has_class(labels, each, 1).any() for each in range(classes)]
    scorers = [_f1_of(each, labels, predictions, np.nan if occurs[each] else 0.0) for each in range(classes)]

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


@metric("label_sets")
def micro_f1(labels: Array, predictions: Array) -> Scorer:
    """F1 of all pairs of an example and a label."""
    both, total = _overlap(labels, predictions)
    return ratio(2 * both, total)


@metric("label_sets", diagnostic=True)
def sample_f1(labels: Array, predictions: Array) -> Scorer:
    """Mean of the F1 of each example's labels; 1 for an example without labels that is predicted without."""
    both, total = _overlap(labels, predictions)
    return mean(divide(2.0 * both, total, 1.0))


@metric("label_sets", diagnostic=True)
def subset_accuracy(labels: Array, predictions: Array) -> Scorer:
    """Share of examples whose labels are all predicted, and no others."""
    return mean((labels.astype(bool) == predictions.astype(bool)).all(-1))


@metric("label_scores", diagnostic=True)
def average_precision(labels: Array, scores: Array) -> Scorer:
    """Mean of the average precision of all labels, in the order of their scores; 0 for one that no example has."""
    from sklearn.metrics import average_precision_score

    known = np.flatnonzero(labels.any(0))

    def of(run: Array, weights: Array) -> float:
        each = [average_precision_score(labels[:, n], run[:, n], sample_weight=weights) for n in known]
        return float(np.sum(each) / labels.shape[1])

    return lambda weights: np.array([[of(run, counts) for run in scores] for counts in weights])


@metric("label_scores", diagnostic=True)
def label_ranking_average_precision(labels: Array, scores: Array) -> Scorer:
    """Mean share of right labels among those ranked as high as each right label (Schapire and Singer 2000)."""
    from sklearn.metrics import label_ranking_average_precision_score as precision

    return lambda weights: np.array(
        [[precision(labels, run, sample_weight=counts) for run in scores] for counts in weights]
    )


def has_class(values: Array, which: int, dimensions: int) -> Array:
    """Return which examples have a class: of ids in an array of so many dimensions, else of 0 and 1 for each class."""
    return values == which if values.ndim == dimensions else values[..., which].astype(bool)


def _overlap(labels: Array, predictions: Array) -> tuple[Array, Array]:
    """Return (runs, examples): the number of labels that are predicted, and of all labels and all predictions."""
    both = labels.astype(bool) & predictions.astype(bool)
    return both.sum(-1), labels.sum(-1) + predictions.sum(-1)


def _f1_of(which: int, labels: Array, predictions: Array, absent: float) -> Scorer:
    predicted, true = has_class(predictions, which, 2), has_class(labels, which, 1)
    return ratio(2 * (predicted & true), predicted.astype(int) + true, absent)
