"""Scores of classes and calibration equal scikit-learn's and statsmodels'."""

from __future__ import annotations

import numpy as np
import pytest

from peftkit.metrics.calibration import BINS, expected_calibration_error, reliability_bins
from peftkit.metrics.per_class import class_scores, confusion_matrix, scores_of_counts, share


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions of five classes; 3 is never predicted, 4 never occurs."""
    random = np.random.default_rng(0)
    labels = random.choice(4, 200, p=[0.6, 0.2, 0.15, 0.05])
    predictions = np.where(random.random(200) < 0.7, labels, random.integers(0, 3, 200))
    return labels, np.where(predictions == 3, 0, predictions)


def test_scores_of_classes_equal_those_of_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    from sklearn import metrics

    ours = confusion_matrix(*answers, classes=5)
    np.testing.assert_array_equal(ours, metrics.confusion_matrix(*answers, labels=range(5)))
    found = class_scores(ours)
    expected = metrics.precision_recall_fscore_support(*answers, labels=range(5), zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        np.testing.assert_allclose([getattr(each, name).value for each in found], values, atol=1e-12)
    assert [each.labeled for each in found] == expected[3].tolist()
    assert np.isnan(found[3].precision.value) and found[3].f1.value == 0


def test_intervals_are_those_of_wilson_within_the_range() -> None:
    from statsmodels.stats.proportion import proportion_confint

    counts = [(0, 5), (5, 5), (1, 3), (37, 200), (0, 1), (199, 200)]
    for successes, trials in counts:
        ours = share(successes, trials)
        np.testing.assert_allclose((ours.low, ours.high), proportion_confint(successes, trials, method="wilson"))
        assert 0 <= ours.low <= ours.value <= ours.high <= 1
    assert np.isnan(share(0, 0).value)


@pytest.mark.parametrize("chances", [(0.02, 0.01, 0.01), (0.10, 0.08, 0.02), (0.03, 0.0, 0.0)])
def test_the_interval_of_f1_contains_the_true_one_as_often_as_it_should(chances: tuple[float, float, float]) -> None:
    both, predicted, labeled = chances  # correct, false positive, false negative
    true = 2 * both / (2 * both + predicted + labeled)
    drawn = np.random.default_rng(0).multinomial(300, [*chances, 1 - sum(chances)], size=2000)
    found = [scores_of_counts(tp + fn, tp + fp, tp).f1 for tp, fp, fn, _ in drawn.tolist() if tp + fp + fn]
    assert np.mean([each.low <= true <= each.high for each in found]) > 0.93


def test_the_interval_of_f1_agrees_with_a_bootstrap_in_the_middle_of_the_range() -> None:
    tp, fp, fn = 120, 40, 30
    found = scores_of_counts(tp + fn, tp + fp, tp).f1
    a, b, c, _ = np.random.default_rng(0).multinomial(1000, [tp / 1000, fp / 1000, fn / 1000, 0.81], size=20_000).T
    np.testing.assert_allclose((found.low, found.high), np.percentile(2 * a / (2 * a + b + c), [2.5, 97.5]), atol=0.01)


def test_reliability_bins_equal_those_of_scikit_learn() -> None:
    from sklearn.calibration import calibration_curve

    random = np.random.default_rng(0)
    confidences = np.append(random.uniform(0.3, 1, 300), [0.0, 0.2, 0.4, 0.6, 1.0])  # edges belong to the bin below
    is_right = random.random(305) < confidences**2
    accuracy, confidence = calibration_curve(is_right, confidences, n_bins=BINS)
    found = reliability_bins(confidences, is_right)
    np.testing.assert_allclose([each.right / each.examples for each in found], accuracy)
    np.testing.assert_allclose([each.confidence for each in found], confidence)
    gaps = [abs(each.right - each.examples * each.confidence) for each in found]
    assert sum(gaps) / 305 == pytest.approx(expected_calibration_error(confidences, is_right))
