"""Calibration of class probabilities: temperature scaling, and how far confidence is from accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftkit.metrics.registry import Array

BINS = 15  # of the expected calibration error, as in Guo et al. 2017
DEFAULT_THRESHOLD = 0.5  # the probability from which one of several labels is predicted
TEMPERATURES = (0.01, 100.0)  # among which the temperature is searched


@dataclass(frozen=True)
class Quality:
    """How well probabilities fit the labels: lower is better."""

    nll: float  # mean negative log-likelihood of the labels, in nats
    ece: float  # expected calibration error


def probabilities(scores: Array, temperature: float = 1.0, several_labels: bool = False) -> Array:
    """Return the probabilities (examples, classes) of scores: logits, or log-likelihoods of labels.

    With several labels of an example, they do not exclude each other: the probability of each is the sigmoid.
    """
    from scipy.special import expit, softmax

    scaled = np.asarray(scores, float) / temperature
    return np.asarray(expit(scaled) if several_labels else softmax(scaled, axis=-1))


def as_choices(scores: Array, labels: Array) -> tuple[Array, Array]:
    """Return scores (choices, classes) and class ids (choices,), whose likelihood a temperature changes.

    Several labels of an example, 0 and 1 (examples, labels), are a choice of two classes each: present, with the score
    of the label, and absent, with 0. Their softmax is the sigmoid of the score, their likelihood binary cross-entropy.
    """
    if labels.ndim == 1:
        return scores, labels
    flat = np.asarray(scores, float).ravel()
    return np.stack([flat, np.zeros_like(flat)], axis=-1), 1 - labels.ravel()


def f1_threshold(probabilities: Array, labels: Array) -> float:
    """Return the probability from which a label is predicted for the highest F1.

    Of several it is the one nearest to 0.5: 0.5 itself, or midway between two neighboring probabilities. It is 0.5 for
    a label that no example has.

    Args:
        probabilities: (examples,) of one label.
        labels: (examples,) 1 for those that have it, else 0.
    """
    from sklearn.metrics import precision_recall_curve

    if not np.any(labels):
        return DEFAULT_THRESHOLD
    precision, recall, found = precision_recall_curve(labels, probabilities)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12))[:-1]
    best = f1 >= f1.max() - 1e-12
    low, high = np.append(0.0, found[:-1])[best], found[best]  # any threshold in between predicts the same examples
    chosen = np.where((low < DEFAULT_THRESHOLD) & (high >= DEFAULT_THRESHOLD), DEFAULT_THRESHOLD, (low + high) / 2)
    return float(chosen[np.abs(chosen - DEFAULT_THRESHOLD).argmin()])


def score_thresholds(thresholds: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Return the scores at which labels have these probabilities."""
    from scipy.special import logit

    return tuple((temperature * logit(np.asarray(thresholds, float))).tolist())


def calibration_quality(scores: Array, labels: Array, temperature: float = 1.0) -> Quality:
    """Return the quality of the probabilities of scores (examples, classes) for the class ids of labels."""
    found = probabilities(scores, temperature)
    is_right = found.argmax(-1) == labels
    return Quality(
        negative_log_likelihood(scores, labels, temperature), expected_calibration_error(found.max(-1), is_right)
    )


def negative_log_likelihood(scores: Array, labels: Array, temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood of the labels in nats."""
    from scipy.special import log_softmax

    found = log_softmax(np.asarray(scores, float) / temperature, axis=-1)
    return float(-found[np.arange(len(labels)), labels].mean())


def expected_calibration_error(confidences: Array, is_right: Array, bins: int = BINS) -> float:
    """Return the mean distance of confidence and accuracy over bins of equal width (Guo et al. 2017, section 2).

    Args:
        confidences: (examples,) the largest probability of each.
        is_right: (examples,) whether its class is the label.
    """
    confidences, is_right = np.asarray(confidences, float), np.asarray(is_right, float)
    which = _bins_of(confidences, bins)
    gaps = np.bincount(which, is_right - confidences, bins)  # of each bin: its count times accuracy minus confidence
    return float(np.abs(gaps).sum() / len(confidences))


@dataclass(frozen=True)
class ReliabilityBin:
    """The examples whose confidence is above `low` and at most `high`; the first bin has those of 0 too."""

    low: float
    high: float
    examples: int
    right: int
    confidence: float  # mean


def reliability_bins(confidences: Array, is_right: Array, bins: int = BINS) -> list[ReliabilityBin]:
    """Return the bins of the expected calibration error that have examples, for a reliability plot."""
    confidences, is_right = np.asarray(confidences, float), np.asarray(is_right, bool)
    which, edges = _bins_of(confidences, bins), np.linspace(0, 1, bins + 1).tolist()
    return [
        ReliabilityBin(
            edges[n], edges[n + 1], len(inside), int(is_right[inside].sum()), float(confidences[inside].mean())
        )
        for n in range(bins)
        for inside in (np.flatnonzero(which == n),)
        if len(inside)
    ]


def _bins_of(confidences: Array, bins: int) -> Array:
    """Return the number of the bin of each confidence; bins include their upper end."""
    return np.digitize(confidences, np.linspace(0, 1, bins + 1)[1:-1], right=True)


def fit_temperature(scores: Array, labels: Array) -> float:
    """Return the temperature that minimizes the negative log-likelihood (Guo et al. 2017, section 4.2).

    It is 1 where every answer is right: the likelihood then grows without limit as the temperature falls.
    """
    from scipy.optimize import minimize_scalar

    if (np.asarray(scores).argmax(-1) == labels).all():
        return 1.0
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(scores, labels, float(np.exp(log_t))),
        bounds=tuple(np.log(TEMPERATURES)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


@dataclass(frozen=True)
class Threshold:
    """A confidence from which answers are given, with what it gave on labeled examples."""

    confidence: float
    answered: int
    right: int
    examples: int

    @property
    def coverage(self) -> float:
        return self.answered / self.examples

    @property
    def accuracy(self) -> float:
        return self.right / self.answered

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy (Clopper and Pearson 1934)."""
        from scipy.stats import binomtest

        found = binomtest(self.right, self.answered).proportion_ci(0.95, "exact")
        return float(found.low), float(found.high)


def threshold_at(confidence: float, confidences: Array, is_right: Array) -> Threshold:
    """Return what a threshold gives on labeled examples."""
    answered = np.asarray(confidences) >= confidence
    return Threshold(confidence, int(answered.sum()), int(np.asarray(is_right)[answered].sum()), len(answered))


def thresholds(confidences: Array, is_right: Array) -> list[Threshold]:
    """Return every threshold at which another example is answered, from the largest coverage on."""
    confidences, is_right = np.asarray(confidences, float), np.asarray(is_right)
    order = np.argsort(-confidences, kind="stable")
    right, sorted_confidences = np.cumsum(is_right[order]), confidences[order]
    # equal confidences are answered together
    last = np.flatnonzero(np.append(np.diff(sorted_confidences) < 0, True))
    return [
        Threshold(float(sorted_confidences[index]), int(index) + 1, int(right[index]), len(confidences))
        for index in last[::-1]
    ]
