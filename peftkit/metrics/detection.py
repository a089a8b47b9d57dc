"""How well a value separates two groups of texts: area under the ROC curve, false positives, and their intervals."""

from dataclasses import dataclass

import numpy as np

RESAMPLES, SEED = 1000, 0  # of the bootstrap
KEPT = 0.95  # of the texts inside, at the threshold of the false positive rate
ROC_POINTS = 101

Interval = tuple[float, float]


@dataclass(frozen=True)
class Detection:
    """How well a value separates texts outside, which should have higher ones, from texts inside.

    Args:
        auroc: the probability that a text outside has a higher value than one inside; ties count half.
        fpr: the share of the texts outside below the threshold that keeps `KEPT` of those inside.
        auroc_interval, fpr_interval: 95 % percentile intervals over resamples of both groups.
        roc: false and true positive rates, where a positive is a text that is kept.
    """

    auroc: float
    auroc_interval: Interval
    fpr: float
    fpr_interval: Interval
    roc: list[tuple[float, float]]


def detection(inside: np.ndarray, outside: np.ndarray) -> Detection:
    """Return how well values (texts,) separate the two groups of texts."""
    distinct, places = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    groups = places[: len(inside)], places[len(inside) :]

    def counts(group: np.ndarray) -> np.ndarray:
        return np.bincount(group, minlength=len(distinct))

    random = np.random.default_rng(SEED)
    resampled = [_rates(*(counts(random.choice(group, len(group))) for group in groups)) for _ in range(RESAMPLES)]
    (aurocs, fprs), (auroc, fpr) = zip(*resampled, strict=True), _rates(*map(counts, groups))
    false, true = (np.concatenate([[0], counts(group).cumsum() / len(group)]) for group in groups[::-1])
    shown = np.unique(np.linspace(0, len(distinct), ROC_POINTS).round().astype(int))
    roc = list(zip(false[shown].tolist(), true[shown].tolist(), strict=True))
    return Detection(auroc, _interval(aurocs), fpr, _interval(fprs), roc)


def _rates(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
    """Return AUROC and false positive rate from the number of texts with each distinct value, in ascending order."""
    below = inside.cumsum()
    total, others = below[-1], outside.sum()
    threshold = np.searchsorted(below, KEPT * total - 1e-9)
    return float(outside @ (below - inside / 2) / (total * others)), float(outside[: threshold + 1].sum() / others)


def _interval(values: tuple[float, ...]) -> Interval:
    limits: list[float] = np.percentile(values, [2.5, 97.5]).tolist()
    return limits[0], limits[1]
