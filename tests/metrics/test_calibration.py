"""Temperature scaling and calibration errors equal a grid, an optimizer of torch, and hand-written sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import TunedThresholdClassifierCV
from torch.nn.functional import binary_cross_entropy_with_logits

from peftkit.metrics.calibration import (
    as_choices,
    calibration_quality,
    expected_calibration_error,
    f1_threshold,
    fit_temperature,
    negative_log_likelihood,
    probabilities,
    score_thresholds,
    thresholds,
)

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(400, 5))
LABELS = np.array([RANDOM.choice(5, p=np.exp(row) / np.exp(row).sum()) for row in LOGITS])


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_is_the_minimum_of_a_grid_and_of_lbfgs(factor: float) -> None:
    scores = factor * LOGITS
    found = fit_temperature(scores, LABELS)
    grid = np.geomspace(0.05, 20, 4001)
    losses = [-np.log(np.exp(scores / t)[range(400), LABELS] / np.exp(scores / t).sum(1)).mean() for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=2e-3)
    log_t = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], line_search_fn="strong_wolfe", max_iter=100, tolerance_change=1e-14)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(torch.tensor(scores) / log_t.exp(), torch.tensor(LABELS))
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    assert found == pytest.approx(log_t.exp().item(), rel=1e-4)
    assert found == pytest.approx(factor, rel=0.2)  # the labels were drawn at temperature 1 of LOGITS
    assert negative_log_likelihood(scores, LABELS, found) == pytest.approx(loss().item(), abs=1e-9)
    assert ((scores / found).argmax(1) == scores.argmax(1)).all()


def test_no_temperature_is_fitted_where_every_answer_is_right_and_the_largest_where_none_can_be() -> None:
    assert fit_temperature(LOGITS, LOGITS.argmax(1)) == 1.0
    assert fit_temperature(LOGITS, LOGITS.argmin(1)) == pytest.approx(100, rel=1e-3)


def test_the_calibration_error_is_the_sum_over_bins() -> None:
    confidences = np.concatenate([RANDOM.uniform(0.2, 1, 300), [0.2, 0.4, 1.0, 1 / 15]])
    is_right = RANDOM.uniform(size=304) < confidences**2
    total = 0.0
    for bin in range(15):
        inside = [i for i, c in enumerate(confidences) if bin / 15 < c <= (bin + 1) / 15]
        if inside:
            total += len(inside) / 304 * abs(np.mean(is_right[inside]) - np.mean(confidences[inside]))
    assert expected_calibration_error(confidences, is_right) == pytest.approx(total)
    assert expected_calibration_error([0.9, 0.9], [True, False]) == pytest.approx(0.4)
    quality = calibration_quality(np.log([[0.7, 0.3], [0.7, 0.3]]), np.array([0, 1]))
    assert quality.ece == pytest.approx(0.2) and quality.nll == pytest.approx(-(math.log(0.7) + math.log(0.3)) / 2)


def test_thresholds_answer_from_most_to_fewest_and_ties_together() -> None:
    found = thresholds([0.9, 0.6, 0.8, 0.8], [True, False, True, False])
    assert [(t.confidence, t.answered, t.right) for t in found] == [(0.6, 4, 2), (0.8, 3, 2), (0.9, 1, 1)]
    assert (found[1].coverage, found[1].accuracy) == (0.75, 2 / 3)
    low, high = thresholds([0.9] * 20, [True] * 20)[0].interval
    assert (low, high) == (pytest.approx(0.025 ** (1 / 20)), 1.0)  # closed form where all are right


def test_several_labels_are_calibrated_by_binary_cross_entropy() -> None:
    random = np.random.default_rng(1)
    labels = (random.random((50, 3)) < 0.3).astype(int)
    scores = 3 * (random.normal(size=(50, 3)) + labels - 0.5)
    choices = as_choices(scores, labels)
    losses = {
        t: float(binary_cross_entropy_with_logits(torch.tensor(scores / t), torch.tensor(labels).double()))
        for t in (1.0, 2.5, *np.geomspace(0.5, 8, 400))
    }
    for temperature in (1.0, 2.5):
        assert calibration_quality(*choices, temperature).nll == pytest.approx(losses[temperature])
    temperature = fit_temperature(*choices)
    assert temperature == pytest.approx(min(losses, key=losses.__getitem__), rel=0.01)
    np.testing.assert_allclose(
        probabilities(choices[0], temperature)[:, 0], probabilities(scores, temperature, several_labels=True).ravel()
    )
    assert ((probabilities(scores, temperature, several_labels=True) >= 0.5) == (scores >= 0)).all()


def f1(labels: np.ndarray, given: np.ndarray) -> float:
    wrong = np.count_nonzero(labels != given)
    right = np.count_nonzero(labels & given)
    return 2 * right / (2 * right + wrong) if right else 0.0


def test_a_threshold_has_the_highest_f1_of_all() -> None:
    random = np.random.default_rng(2)
    for size, share in ((40, 0.1), (40, 0.5), (7, 0.3)):
        for _ in range(20):
            labels = (random.random(size) < share).astype(int)
            given = np.round(expit(random.normal(size=size) + labels - 1), 1)  # with ties
            threshold = f1_threshold(given, labels)
            every = [f1(labels, given >= t) for t in (0.001, 0.5, *(given + 1e-9), *given)]
            assert f1_score(labels, given >= threshold, zero_division=0) == pytest.approx(max(every))
            if every[1] == max(every) or not labels.any():
                assert threshold == 0.5
    assert score_thresholds([0.5, expit(1.5)], 2.0) == pytest.approx((0.0, 3.0))


def test_a_threshold_is_at_least_as_good_as_that_of_scikit_learn() -> None:
    random = np.random.default_rng(3)
    labels = (random.random(200) < 0.15).astype(int)
    inputs = (random.normal(size=200) + labels)[:, None]
    model = LogisticRegression().fit(inputs, labels)
    tuned = TunedThresholdClassifierCV(model, scoring="f1", cv="prefit", refit=False).fit(inputs, labels)
    given = model.predict_proba(inputs)[:, 1]
    found = f1_score(labels, given >= f1_threshold(given, labels))
    assert f1_score(labels, tuned.predict(inputs)) <= found <= tuned.best_score_ + 0.02
