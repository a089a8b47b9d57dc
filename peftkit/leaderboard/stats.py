"""Turn the scores of several seeds and tasks into one number with its spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")  # AX is a diagnostic, not counted


@dataclass(frozen=True)
class Summary:
    """A mean over `n` seeds and its sample standard deviation, None for a single seed."""

    mean: float
    spread: float | None
    n: int


def summarize(values: Sequence[float]) -> Summary:
    return Summary(mean(values), stdev(values) if len(values) > 1 else None, len(values))


def task_score(scores: Mapping[str, Mapping[str, Any]]) -> float:
    """Return a task's one score: the plain mean of its metrics (GLUE, Wang et al. 2019, section 3)."""
    return mean(entry["value"] for entry in scores.values())


def glue_average(task_scores: Mapping[str, float]) -> float | None:
    """Return the macro-average over the nine tasks, or None where one is missing (GLUE, section 3)."""
    if missing_tasks(task_scores):
        return None
    return mean(task_scores[task] for task in GLUE)


def missing_tasks(tasks: Iterable[str]) -> list[str]:
    there = set(tasks)
    return [task for task in GLUE if task not in there]
