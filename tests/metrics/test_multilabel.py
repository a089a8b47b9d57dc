"""Scores of several labels equal those of scikit-learn, and their resamples those of the resampled examples."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from peftkit.leaderboard.paired import can_resample, scores_by_resample
from peftkit.leaderboard.predictions import LabeledExamples, RunPredictions
from peftkit.metrics import METRICS, score

NAMES = ["bug", "billing", "urgent", "never"]
RANDOM = np.random.default_rng(0)
LABELS = (RANDOM.random((60, 4)) < [0.3, 0.5, 0.1, 0.0]).astype(int)
SCORES = RANDOM.normal(size=(60, 4)) + 2 * LABELS - 1
LABELS[:3], SCORES[:2] = 0, -1.0  # examples without labels, two of them predicted without
PREDICTIONS = (SCORES >= 0).astype(int)
EVERY = ["micro_f1", "macro_f1", "sample_f1", "subset_accuracy", "average_precision", "label_ranking_average_precision"]


def expected(labels: np.ndarray, predictions: np.ndarray, scores: np.ndarray) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about labels that no example has
        return [
            sklearn_metrics.f1_score(labels, predictions, average="micro", zero_division=0),
            sklearn_metrics.f1_score(labels, predictions, average="macro", zero_division=0),
            sklearn_metrics.f1_score(labels, predictions, average="samples", zero_division=1),
            sklearn_metrics.accuracy_score(labels, predictions),
            sklearn_metrics.average_precision_score(labels, scores, average="macro"),
            sklearn_metrics.label_ranking_average_precision_score(labels, scores),
        ]


def test_scores_are_those_of_scikit_learn() -> None:
    found = score(EVERY, PREDICTIONS, LABELS, label_names=NAMES, others={"label_scores": (LABELS, SCORES)})
    assert [found[name]["value"] for name in EVERY] == pytest.approx(expected(LABELS, PREDICTIONS, SCORES), abs=1e-12)


def test_weights_are_counts_of_examples() -> None:
    counts = RANDOM.integers(0, 4, (1, 60))
    again = np.repeat(np.arange(60), counts[0])
    for name, value in zip(EVERY, expected(LABELS[again], PREDICTIONS[again], SCORES[again]), strict=True):
        given = SCORES if METRICS[name].input == "label_scores" else PREDICTIONS
        assert METRICS[name].scorer(LABELS, given[None], 4)(counts)[0, 0] == pytest.approx(value, abs=1e-12), name


def test_a_board_resamples_lists_of_labels() -> None:
    lists = [np.array([np.flatnonzero(row) for row in rows] + [None], object)[:-1] for rows in (LABELS, PREDICTIONS)]
    splits = np.array(["validation"] * 60)
    run = RunPredictions(LabeledExamples(np.arange(60).astype(str), splits, lists[0]), lists[1])
    assert can_resample(EVERY, run) and can_resample(["sample_f1"], run)
    assert not can_resample(["average_precision"], run) and not can_resample(["accuracy"], run)
    whole, resampled = scores_by_resample(EVERY, lists[0], lists[1][None], splits, 50, classes=4)
    assert whole[0] == pytest.approx(np.mean(expected(LABELS, PREDICTIONS, SCORES)[:2]))  # the others are diagnostic
    assert resampled.shape == (50, 1) and resampled.std() > 0
