"""Precision, recall and F1 of each class with 95 % intervals, and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Ids = Sequence[int] | np.ndarray
Z = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


@dataclass(frozen=True)
class Estimate:
    """A share and its 95 % interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class.

    Args:
        labeled: examples with this label. predicted: examples with this prediction. correct: those with both.
        precision: undefined where nothing is predicted. recall: undefined without examples. f1: undefined without both.
    """

    labeled: int
    predicted: int
    correct: int
    precision: Estimate
    recall: Estimate
    f1: Estimate


def confusion_matrix(labels: Ids, predictions: Ids, classes: int) -> np.ndarray:
    """Return counts (labels, predictions) of class ids."""
    pairs = np.asarray(labels, int) * classes + np.asarray(predictions, int)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_scores(confusion: np.ndarray) -> list[ClassScores]:
    """Return the scores of each class of a confusion matrix (labels, predictions)."""
    rows = zip(confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion), strict=True)
    return [scores_of_counts(*map(int, counts)) for counts in rows]


def scores_of_counts(labeled: int, predicted: int, correct: int) -> ClassScores:
    """Return the scores of one class.

    Precision, recall and Jaccard = correct / (labeled or predicted) are shares of counts, with Wilson intervals. F1 is
    2 Jaccard / (1 + Jaccard), which grows with it, so its interval has the transformed limits. Unlike a bootstrap's it
    has a width also where F1 is 0 or 1.
    """
    jaccard = share(correct, labeled + predicted - correct)
    low, value, high = (2 * each / (1 + each) for each in (jaccard.low, jaccard.value, jaccard.high))
    return ClassScores(
        labeled, predicted, correct, share(correct, predicted), share(correct, labeled), Estimate(value, low, high)
    )


def share(successes: int, trials: int) -> Estimate:
    """Return a share of trials with its score interval (Wilson 1927)."""
    if trials == 0:
        return Estimate(math.nan, math.nan, math.nan)
    p = successes / trials
    low, high = wilson_interval(p, trials)
    # at the ends of the range rounding would give 1e-17 and 1 - 1e-16
    return Estimate(p, low if successes else 0.0, high if successes < trials else 1.0)


def wilson_interval(p: float, trials: float) -> tuple[float, float]:
    """Return the 95 % score interval of a share of trials (Wilson 1927)."""
    shrink = 1 + Z**2 / trials
    center = (p + Z**2 / (2 * trials)) / shrink
    half = Z / shrink * math.sqrt(p * (1 - p) / trials + Z**2 / (4 * trials**2))
    return center - half, center + half
