"""The entries of a board: all seeds of one method with one set of settings on one task, and lines of the GLUE table."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean


@dataclass(frozen=True)
class Summary:
    """A mean over `n` seeds and its sample standard deviation (n - 1), None for a single seed."""

    mean: float
    spread: float | None
    n: int


@dataclass(frozen=True)
class BoardEntry:
    """All seeds of one method, with one set of settings, on one task."""

    board: str
    task: str
    model: str
    method: str
    settings: str  # those in which it differs from the method's other rows
    scores: dict[str, Summary]
    higher_is_better: dict[str, bool]
    by_seed: dict[int, float]  # the task's score
    delta: float | None  # to the best row of full fine-tuning on the same rows
    is_reference: bool
    costs: dict[str, float]
    timed: dict[str, dict[str, float]]  # device -> costs that mean something on that machine only
    rows: dict[str, int]
    suite: str
    asked: int  # seeds that were run, those without scores included
    problems: list[str]
    is_unfinished: bool  # all that have no scores go on still, or were stopped
    all_settings: dict[str, str] = field(repr=False)
    folders: dict[int, Path] = field(default_factory=dict)  # seed -> its run, of those with scores
    interval: tuple[float, float] | None = None  # 95 %, of the task's score over seeds; None for a single seed
    curve: tuple[tuple[float, float], ...] = ()  # share of training, score: the chosen trial's, on rows set apart
    trials: int = 1  # settings tried to choose this one
    planned: int = 0  # seeds that the task's middle row has, or asked for itself: fewer than that are missing

    @property
    def name(self) -> str:
        """Return the entry's name within its task: its method and the settings in which it differs from others."""
        return f"{self.method} {self.settings}".strip()

    def label(self, several_models: bool) -> str:
        """Return the entry's name across tasks, with its model where a board has several."""
        return f"{self.name} {self.model.split('/')[-1]}" if several_models else self.name

    @cached_property
    def score(self) -> float | None:
        return fmean(self.by_seed.values()) if self.by_seed else None

    @property
    def is_up(self) -> bool:
        """Tell whether the score is one of which more is better; else it is an error, kept negative."""
        return not self.higher_is_better or any(self.higher_is_better.values())

    @property
    def without_score(self) -> str:
        """Return the word that stands where a score is missing."""
        return "unfinished" if self.is_unfinished else "failed"

    @property
    def seeds(self) -> list[int]:
        return sorted(self.by_seed)


@dataclass(frozen=True)
class GlueEntry:
    """A method's scores on GLUE's tasks; the average is None while a task is missing."""

    board: str
    method: str
    model: str
    settings: str
    scores: dict[str, float]
    average: float | None
    spread: float | None  # of the averages of the seeds that have all nine tasks
    missing: list[str]
