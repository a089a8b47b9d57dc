"""Temperature scaling and calibration errors equal a grid, an optimizer of torch, and hand-written sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from peftkit.metrics.calibration import (
    calibration_quality,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
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
