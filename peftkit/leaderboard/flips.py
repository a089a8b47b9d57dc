"""Two runs on the same examples: how many each has right, by class, and the difference of their scores, with tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftkit.leaderboard.contrast import ALPHA, EntrySample, TaskSample, contrast, half_width, holm, mcnemar_p
from peftkit.leaderboard.intervals import score_range
from peftkit.leaderboard.paired import MAX_RESAMPLES, SCORE_TOLERANCE, can_resample, scores_by_resample
from peftkit.leaderboard.predictions import RunPredictions
from peftkit.leaderboard.stats import score_metrics, task_score

Array = np.ndarray


@dataclass(frozen=True)
class Flips:
    """How many examples, of one class or of all, both runs, one of them or neither have right."""

    name: str
    both: int
    only_first: int
    only_second: int
    neither: int
    p: float  # exact McNemar test; of classes with Holm's correction

    @property
    def examples(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither


@dataclass(frozen=True)
class ScoreDifference:
    """The score of one run minus that of another, with the 95 % interval and p-value over new examples."""

    metrics: list[str]  # of which the score is the mean
    difference: float
    interval: tuple[float, float]
    p: float
    test: str


def count_flips(first: Array, second: Array, classes: Mapping[str, Array]) -> list[Flips]:
    """Return the counts of all examples, then those of each class that has examples.

    Args:
        first, second: (examples,) whether each run is right.
        classes: name -> (examples,) whether an example has that label.
    """
    parts = {name: members for name, members in classes.items() if members.any()}
    p: Array = np.array([mcnemar_p(first[each], second[each]) for each in parts.values()])
    p = holm(p)
    counts = [
        _flips(name, first[each], second[each], value) for (name, each), value in zip(parts.items(), p, strict=True)
    ]
    return [_flips("all", first, second, mcnemar_p(first, second)), *counts]


def _flips(name: str, first: Array, second: Array, p: float) -> Flips:
    both, one, other, neither = (int(np.sum((first == a) & (second == b))) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0)))
    return Flips(name, both, one, other, neither, float(p))


def score_difference(
    scores: Sequence[Mapping[str, Mapping[str, Any]]], runs: Sequence[RunPredictions], classes: int | None
) -> ScoreDifference | None:
    """Return the difference of two runs, tested as on a board; None where their scores cannot be resampled.

    Of errors, such as the mean squared error, it is that of the errors; a board compares their negatives.

    Args:
        scores: as in result.json, of each run.
        runs: the predictions on the same examples, in the same order.
        classes: the number of the task's classes, where it has any.
    """
    metrics, (one, other) = tuple(scores[0]), runs
    if tuple(scores[1]) != metrics or not all(can_resample(metrics, run) for run in runs):
        return None
    predictions, labels = np.stack([one.predictions, other.predictions]), one.examples.labels
    whole, resampled = scores_by_resample(
        metrics, labels, predictions, one.examples.splits, MAX_RESAMPLES, classes=classes
    )
    if not np.allclose(whole, [task_score(each) for each in scores], rtol=0, atol=SCORE_TOLERANCE):
        return None
    is_plain = metrics == ("accuracy",)
    entries = [
        EntrySample(whole[[n]], resampled[:, [n]], predictions[n] == labels if is_plain else None) for n in (0, 1)
    ]
    tested = contrast([TaskSample(entries, len(labels), np.array([0]), np.array([1]))])[0]
    difference, half = float(tested.difference[0]), float(half_width(ALPHA, tested)[0])
    counted = score_metrics(metrics)
    if not any(scores[0][name]["higher_is_better"] for name in counted):
        difference = -difference
    low, high = score_range({name: scores[0][name]["higher_is_better"] for name in metrics})
    interval = (max(difference - half, low - high), min(difference + half, high - low))
    return ScoreDifference(counted, difference, interval, float(tested.p[0]), tested.test[0])
