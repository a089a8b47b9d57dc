"""The entries of a board: all seeds of one method with one set of settings on one task, and lines of the GLUE table."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean

from peftkit.leaderboard.runs import BoardRun


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
    settings: str  # those in which it differs from the method's other entries
    runs: tuple[BoardRun, ...] = field(repr=False)  # by seed, those without a score included
    scores: dict[str, Summary]
    higher_is_better: dict[str, bool]
    by_seed: dict[int, float]  # the task's score
    costs: dict[str, float]
    timed: dict[str, dict[str, float]]  # device -> costs that compare on one machine only
    all_settings: dict[str, str] = field(repr=False)
    interval: tuple[float, float] | None = None  # 95 %, of the task's score over seeds; None for a single seed
    delta: float | None = None  # to the best entry of full fine-tuning on the same examples
    is_reference: bool = False
    planned: int = 0  # seeds of the task's median entry, or attempted by this one if more

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
        """Return whether a higher score is better; otherwise it is an error, kept negative."""
        return not self.higher_is_better or any(self.higher_is_better.values())

    @property
    def without_score(self) -> str:
        """Return what tables show where a score is missing."""
        return "unfinished" if all(run.is_unfinished for run in self.runs if run.problem) else "failed"

    @property
    def scored_runs(self) -> list[BoardRun]:
        return [run for run in self.runs if run.problem is None]

    @property
    def folders(self) -> dict[int, Path]:
        """Return the folder of each seed that has a score."""
        return {run.seed: run.folder for run in self.scored_runs}

    @property
    def suite(self) -> str:
        return self.runs[0].suite

    @property
    def examples(self) -> dict[str, int]:
        """Return the number of examples by split."""
        return self.runs[0].examples

    @property
    def attempted(self) -> int:
        """Return the number of seeds that ran, those without a score included."""
        return len({run.seed for run in self.runs})

    @property
    def problems(self) -> list[str]:
        return [f"seed {run.seed} {run.problem}" for run in self.runs if run.problem]

    @property
    def trials(self) -> int:
        """Return the learning-rate trials of the search; 1 without a search."""
        return max(1 if (trials := (run.search or {}).get("trials")) is None else len(trials) for run in self.runs)

    @property
    def curve(self) -> list[tuple[float, float]]:
        """Return (share of training, score on held-out training examples) of the chosen trial, by epoch."""
        points: list[dict[str, float]] = next(
            (run.search["curve"] for run in self.runs if run.search and run.search.get("curve")), []
        )
        return [(point["epoch"] / points[-1]["epoch"], point["score"]) for point in points]

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
