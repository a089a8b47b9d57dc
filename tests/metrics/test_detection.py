"""AUROC and the false positive rate of a detector are those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from peftkit.metrics.detection import detection


@pytest.mark.parametrize("digits", [12, 1], ids=["distinct", "ties"])
def test_the_rates_are_those_of_scikit_learn(digits: int) -> None:
    random = np.random.default_rng(1)
    inside, outside = random.normal(0, 1, 173).round(digits), random.normal(0.7, 2, 90).round(digits)
    found, values = detection(inside, outside), np.concatenate([inside, outside])
    assert found.auroc == pytest.approx(roc_auc_score([0] * 173 + [1] * 90, values), abs=1e-12)
    false, true, _ = roc_curve([1] * 173 + [0] * 90, -values, drop_intermediate=False)
    assert found.fpr == pytest.approx(false[np.argmax(true >= 0.95)], abs=1e-12)
    whole = {(round(x, 9), round(1 - y, 9)) for x, y in zip(1 - false, true, strict=True)}
    assert {(round(1 - x, 9), round(1 - y, 9)) for x, y in found.roc} <= whole
    assert found.roc[0] == (0, 0) and found.roc[-1] == (1, 1)


def test_the_interval_is_that_of_resamples_of_both_groups() -> None:
    random = np.random.default_rng(2)
    inside, outside = random.normal(0, 1, 200), random.normal(1, 1, 300)
    found, resampled = detection(inside, outside), []
    for _ in range(500):
        values = np.concatenate([random.choice(inside, 200), random.choice(outside, 300)])
        resampled.append(roc_auc_score([0] * 200 + [1] * 300, values))
    assert found.auroc_interval == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=0.006)
    assert found.auroc_interval[0] < found.auroc < found.auroc_interval[1]


def test_separate_groups_have_the_ends_of_the_range() -> None:
    found = detection(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    assert (found.auroc, found.auroc_interval, found.fpr) == (1, (1, 1), 0)
    assert detection(np.array([3.0, 4.0]), np.array([1.0, 2.0])).auroc == 0
