"""The agreement of ordered labels equals that of scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from peftkit.metrics import METRICS


def test_quadratic_weighted_kappa_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(1, 6, 80)
    predictions = labels + random.normal(size=80)
    expected = cohen_kappa_score(labels, np.rint(predictions).astype(int), weights="quadratic")
    assert METRICS["quadratic_weighted_kappa"].score(labels, predictions) == pytest.approx(expected, abs=1e-12)
    again = random.integers(0, 80, 80)
    counts = np.bincount(again, minlength=80)[None].astype(float)
    expected = cohen_kappa_score(labels[again], np.rint(predictions[again]).astype(int), weights="quadratic")
    found = METRICS["quadratic_weighted_kappa"].scorer(labels, predictions[None])(counts)
    assert found[0, 0] == pytest.approx(expected, abs=1e-12)
    assert METRICS["quadratic_weighted_kappa"].score(np.ones(3), np.ones(3)) == 0
