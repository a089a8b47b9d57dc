"""Intervals have their stated coverage method, and never leave the range of a metric."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.recorded_runs import write_run
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from peftkit.leaderboard.board import Board
from peftkit.leaderboard.intervals import score_interval, score_range
from peftkit.leaderboard.letters import compact_letters, shades


@pytest.mark.parametrize(("right", "examples"), [(61, 100), (99, 100), (100, 100), (0, 40), (3, 7)])
def test_the_interval_of_a_share_is_wilsons(right: int, examples: int) -> None:
    share = right / examples
    found = score_interval(share, math.sqrt(share * (1 - share) / examples), (0.0, 1.0), examples)
    assert found == pytest.approx(proportion_confint(right, examples, method="wilson"), abs=1e-9)


def test_an_interval_of_any_error_is_inside_the_range_and_contains_the_score() -> None:
    for limits in ((0.0, 1.0), (-1.0, 1.0), (-0.5, 1.0), (-math.inf, 0.0), (1.0, math.inf)):
        low, high = (end if math.isfinite(end) else -9.0 if end < 0 else 9.0 for end in limits)
        for mean in np.linspace(low, high, 7)[1:-1]:
            for error in (1e-6, 0.02, 0.5, 5.0, 100.0):
                found = score_interval(float(mean), error, limits, 50)
                assert found is not None
                assert limits[0] <= found[0] <= mean <= found[1] <= limits[1]


def test_a_small_error_far_from_the_ends_gives_the_plain_interval() -> None:
    for mean, limits in ((0.5, (0.0, 1.0)), (0.2, (-1.0, 1.0)), (-5.0, (-math.inf, 0.0)), (3.0, (-math.inf, math.inf))):
        expected = stats.norm.interval(0.95, loc=mean, scale=1e-3)
        assert score_interval(mean, 1e-3, limits, 0) == pytest.approx(expected, abs=1e-5)


def test_the_interval_of_an_error_is_that_of_its_logarithm() -> None:
    low, high = score_interval(-2.0, 0.5, (-math.inf, 0.0), 0) or (0, 0)
    expected = np.exp(stats.norm.interval(0.95, loc=math.log(2), scale=0.5 / 2))
    assert (-high, -low) == pytest.approx(tuple(expected))


def test_the_range_of_a_task_score_is_the_mean_of_its_metrics() -> None:
    assert score_range({"accuracy": True, "f1": True}) == (0, 1)
    assert score_range({"accuracy_matched": True, "matthews_correlation": True}) == (-0.5, 1)
    assert score_range({"mean_squared_error": False, "pearson": True}) == (-1, 1)
    assert score_range({"perplexity": False}) == (-math.inf, -1)
    assert score_range({"evaluate:mae": True}) == (-math.inf, math.inf)


def test_two_seeds_give_intervals_inside_the_range_and_no_impossible_power(tmp_path: Path) -> None:
    for method, values in {"lora": (0.95, 0.55), "ia3": (0.99, 0.4), "full": (1.0, 0.9)}.items():
        for seed, value in enumerate(values):
            write_run(tmp_path, f"{method}{seed}", method=method, seed=seed, value=value)
    board = Board.read([tmp_path])
    for entry in board.entries:
        low, high = entry.interval or (math.nan, math.nan)
        assert 0 <= low < (entry.score or 0) < high <= 1
    assert all(-1 <= c.low <= c.difference <= c.high <= 1 for c in board.verdict().comparisons)
    assert list(board.verdict().detectable.values()) == ["cannot be estimated from 2 seeds"]


def test_equal_scores_have_no_power_of_zero(tmp_path: Path) -> None:
    for method in ("lora", "ia3"):
        for seed in (0, 1):
            write_run(tmp_path, f"{method}{seed}", method=method, seed=seed, value=0.615)
    board = Board.read([tmp_path])
    assert list(board.verdict().detectable.values()) == ["cannot be estimated from 2 seeds"]


@pytest.mark.parametrize("seed", range(5))
def test_shades_never_separate_what_does_not_differ(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = sorted(random.random(8), reverse=True)
    differing = [(a, b) for a in range(8) for b in range(a + 1, 8) if random.random() < 0.7]
    letters = compact_letters(8, differing)
    found = shades(letters, scores)
    for a in range(8):
        for b in range(a + 1, 8):
            if (a, b) not in differing:
                assert found[a] == found[b]


def test_different_shades_are_ordered_by_score_and_equal_where_nothing_differs() -> None:
    assert shades(["a", "ab", "b", "c"], [0.9, 0.8, 0.7, 0.1]) == [1, 1, 1, 0]
    assert shades(["a", "b", "c"], [0.9, 0.5, 0.1]) == [1, pytest.approx(0.5), 0]
    assert shades(["a", "a"], [0.9, 0.1]) == [0, 0]
    assert shades(["", ""], [0.9, 0.1]) == [0, 0]
