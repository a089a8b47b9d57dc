"""Scores of tasks that one model learned one after the other: their matrix, what was forgotten, and their page."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from peftkit.config.start import start_folder
from peftkit.data.datasets import TaskDataset
from peftkit.leaderboard.stats import task_score
from peftkit.methods.start import load_weights
from peftkit.pipeline.artifacts import load_bundle
from peftkit.pipeline.examples import score_splits
from peftkit.results.page import Html, element, list_of, page, paragraph, section, table, write_page
from peftkit.results.page.charts import line_chart
from peftkit.results.run_result import RunResult

NOTES = (
    "Score: the mean of a task's metrics on its validation examples.",
    "After a step, an earlier task is scored with the head that it had at its own step, over the weights of this step.",
    "Alone: the task trained from the base, with the same seed and settings.",
    "Average, backward transfer: Lopez-Paz and Ranzato 2017, section 2. Backward transfer is the mean change of the "
    "tasks before the last from their own step to the end; below 0 they are forgotten.",
    "Forward transfer: the mean gain of the tasks after the first over alone. A task has no head before its step, so "
    "that its score before training, which the paper compares, would be that of a random head.",
)


@dataclass(frozen=True)
class ContinualScores:
    """Scores of the tasks, in order.

    Args:
        matrix: row i has the scores of the tasks up to i after the step of task i.
        alone: of each task trained from the base; that of the first one is in the matrix.
    """

    tasks: list[str]
    matrix: list[list[float]]
    alone: list[float]

    @property
    def average(self) -> float:
        """The mean score of all tasks at the end."""
        return fmean(self.matrix[-1])

    @property
    def changes(self) -> list[float]:
        """The change of each task but the last from its own step to the end."""
        return [self.matrix[-1][number] - self.matrix[number][number] for number in range(len(self.tasks) - 1)]

    @property
    def gains(self) -> list[float]:
        """The gain of each task but the first over the task alone."""
        return [self.matrix[number][number] - self.alone[number] for number in range(1, len(self.tasks))]

    def as_record(self) -> dict[str, Any]:
        """Return the scores and their summaries."""
        transfer = {"backward_transfer": fmean(self.changes), "forward_transfer": fmean(self.gains)}
        return {**asdict(self), "average": self.average, **transfer}


def score_with_head(head: RunResult, body: RunResult, data: TaskDataset) -> float:
    """Return the score of a run's task with its own head over the weights below it of another run.

    Args:
        data: that the run of the head was scored on.
    """
    weights = start_folder(body.folder)
    assert weights is not None  # a finished run that trained
    bundle = load_bundle(head)
    load_weights(bundle.model, weights.weights, with_head=False)
    with tempfile.TemporaryDirectory() as scratch:
        return task_score(score_splits(head.config, bundle, data, Path(scratch, "scores.parquet"))[0])


def table_lines(scores: ContinualScores) -> list[str]:
    """Return the matrix and its summaries for the terminal."""
    width = max(map(len, ("after", *scores.tasks)))
    rows = [[f"{score:.3f}" for score in row] for row in [*scores.matrix, scores.alone]]
    named = zip(("after", *scores.tasks, "alone"), (scores.tasks, *rows), strict=True)
    lines = [f"{name:<{width}}" + "".join(f"{cell:>{width + 2}}" for cell in row) for name, row in named]
    return [*lines, *sentences(scores)]


def sentences(scores: ContinualScores) -> list[str]:
    """Return average, backward and forward transfer."""
    record = scores.as_record()
    changes, gains = (
        ", ".join(f"{task} {value:+.3f}" for task, value in zip(tasks, values, strict=True))
        for tasks, values in ((scores.tasks[:-1], scores.changes), (scores.tasks[1:], scores.gains))
    )
    return [
        f"average of all tasks at the end: {scores.average:.3f}",
        f"backward transfer: {record['backward_transfer']:+.3f} ({changes})",
        f"forward transfer, over the task alone: {record['forward_transfer']:+.3f} ({gains})",
    ]


def write_continual_page(scores: ContinualScores, title: str, file: Path) -> None:
    """Write the matrix, and a chart of each task's score over the steps, as one HTML file."""
    rows = [
        [name, *(f"{score:.3f}" for score in row), *[""] * (len(scores.tasks) - len(row))]
        for name, row in zip([*scores.tasks, "alone"], [*scores.matrix, scores.alone], strict=True)
    ]
    matrix = table("Score of each task after each step", ["after", *scores.tasks], rows, scores.tasks)
    content = (
        section("Scores", matrix, list_of(sentences(scores))),
        section("Steps", element("div", *_charts(scores), class_="plots")),
        section("How to read it", list_of(NOTES)),
    )
    write_page(page(title, paragraph(" → ".join(scores.tasks)), *content), file)


def _charts(scores: ContinualScores) -> list[Html]:
    """Return a chart for each task but the last, which has one score."""
    return [
        line_chart(
            task,
            f"{task} after each step, from its own on",
            "step",
            "score",
            {task: _points(scores.matrix, number)},
        )
        for number, task in enumerate(scores.tasks[:-1])
    ]


def _points(matrix: Sequence[Sequence[float]], number: int) -> list[tuple[float, float]]:
    return [(float(step + 1), row[number]) for step, row in enumerate(matrix) if step >= number]
