"""Recorded runs, the typed content of result.json, and the entries that they form on a board."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, ClassVar, TypeVar

Item = TypeVar("Item")
SKIPPED = "skipped"  # status of a seed that was not needed


@dataclass(frozen=True)
class BoardRun:
    """One recorded run.

    `settings` must be equal for two runs to be seeds of one entry; they include the revisions of model and data and the
    versions that may change a result. `audit` and the fields from `search` on are as in result.json, None where
    it has none.
    """

    folder: Path  # of a run in an archive ARCHIVE.parquet/FOLDER
    problem: str | None  # why the scores are excluded
    suite: str
    task: str
    model: str
    model_substituted_for: str | None  # the model of the config, where an offline substitute replaces it
    data: str
    data_substituted_for: str | None
    method: str
    seed: int
    device: str
    started: str
    settings: dict[str, str]
    examples: dict[str, int]  # by split
    scores: dict[str, dict[str, Any]]  # metric -> value, higher_is_better
    costs: dict[str, float]
    overrides: list[str] = field(default_factory=list)  # as typed
    versions: dict[str, str] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    search: dict[str, Any] | None = None
    cross_validation: dict[str, Any] | None = None
    gates: dict[str, Any] | None = None
    merge: dict[str, Any] | None = None
    forgetting: dict[str, Any] | None = None
    language: dict[str, Any] | None = None
    judged: dict[str, Any] | None = None
    domains: dict[str, Any] | None = None

    @property
    def is_unfinished(self) -> bool:
        """Return whether the run is still in progress or was interrupted: it can be resumed."""
        return (self.problem or "").startswith(("running", "interrupted"))

    @property
    def is_skipped(self) -> bool:
        """Return whether the run was not needed: sequential seeds had settled its entry."""
        return (self.problem or "").startswith(f"{SKIPPED}: ")

    @property
    def source(self) -> tuple:
        """Return the values that must be equal for two runs to be on one board; substitutes have their own."""
        return self.suite, self.data, self.data_substituted_for, self.model_substituted_for is not None

    @cached_property
    def group(self) -> tuple:
        """Return the values that must be equal for two runs to be seeds of one entry, except the number of examples."""
        settings = json.dumps(self.settings, sort_keys=True)
        return *self.source, self.task, self.model, self.model_substituted_for, self.method, settings

    @property
    def identity(self) -> tuple:
        """Return the values that identify a run: equal for two records of the same run."""
        return *self.group, tuple(sorted(self.examples.items())), self.seed


@dataclass(frozen=True)
class UnreadableRun:
    """A result.json that cannot be read."""

    folder: Path
    problem: str
    is_unfinished: ClassVar[bool] = False
    is_skipped: ClassVar[bool] = False


@dataclass(frozen=True)
class Summary:
    """A mean over seeds and its sample standard deviation (n - 1), None for a single seed."""

    mean: float
    spread: float | None


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
    interval: tuple[float, float] | None = None  # 95 %, of the task's score; None where it cannot be estimated
    delta: float | None = None  # to the best entry of full fine-tuning on the same examples
    is_reference: bool = False
    planned: int = 0  # seeds of the task's median entry, or attempted by this one if more
    label: str = ""  # its name across tasks, with its model where the board has several
    model_label: str = ""  # the last part of the model's name, or all of it where another model has the same one
    is_baseline: bool = False
    answer: Any = None  # the one that a baseline always gives
    constant_baseline: str | None = None  # name of its task's baseline that always gives one answer, for the same data
    against_baseline: str = ""  # better, not better or not tested

    @property
    def name(self) -> str:
        """Return the entry's name within its task: its method and the settings in which it differs from others."""
        return f"{self.method} {self.settings}".strip()

    @cached_property
    def score(self) -> float | None:
        return fmean(self.by_seed.values()) if self.by_seed else None

    @property
    def spread(self) -> float | None:
        """Return the sample standard deviation of the task's score over seeds, None for a single seed."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    @property
    def greater_is_better(self) -> bool:
        """Return whether a higher score is better; otherwise it is an error, kept negative."""
        return not self.higher_is_better or any(self.higher_is_better.values())

    @property
    def without_score(self) -> str:
        """Return the text that tables show where a score is missing."""
        return "unfinished" if all(run.is_unfinished for run in self.runs if run.problem) else "failed"

    @property
    def is_ranked(self) -> bool:
        """Return whether the entry is compared with others: it has a score and is no baseline."""
        return self.score is not None and not self.is_baseline

    @property
    def scored_runs(self) -> list[BoardRun]:
        return [run for run in self.runs if run.problem is None]

    @property
    def suite(self) -> str:
        return self.runs[0].suite

    @property
    def examples(self) -> dict[str, int]:
        """Return the number of examples by split."""
        return self.runs[0].examples

    @property
    def problems(self) -> list[str]:
        return [f"seed {run.seed} {run.problem}" for run in self.runs if run.problem]

    @property
    def seeds_note(self) -> str:
        """Return why the entry has fewer seeds than planned; nothing where it has all."""
        if len(self.seeds) >= self.planned:
            return ""
        skipped = [run.problem for run in self.runs if run.is_skipped and run.problem]
        return skipped[0].removeprefix(f"{SKIPPED}: ") if skipped else f"has {len(self.seeds)} of {self.planned} seeds"

    @property
    def trials(self) -> int:
        """Return the trials of the search; 1 without a search."""
        return max(1 if (trials := (run.search or {}).get("trials")) is None else len(trials) for run in self.runs)

    @property
    def trial_examples(self) -> int | None:
        """Return the number of examples seen in all trials together, None where it is not recorded."""
        rounds: list[dict[str, int]] = next((r for run in self.runs if (r := (run.search or {}).get("rounds"))), [])
        return sum(each["trials"] * each["examples_seen"] for each in rounds) or None

    @property
    def trials_text(self) -> str:
        """Return the number of trials; of successive halving with the examples seen in all of them."""
        is_halved = "search.halving_factor" in self.all_settings and self.trial_examples is not None
        return f"{self.trials} on {self.trial_examples:,} examples" if is_halved else str(self.trials)

    @property
    def curve(self) -> list[tuple[float, float]]:
        """Return (share of training, score on held-out training examples) of the chosen trial, by epoch."""
        points: list[dict[str, float]] = next((c for run in self.runs if (c := (run.search or {}).get("curve"))), [])
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
    model_label: str = ""  # as of a `BoardEntry`
    is_baseline: bool = False
    against_baseline: str = ""  # of the average


def grouped(items: Iterable[Item], key: Callable[[Item], Any]) -> dict[Any, list[Item]]:
    """Return the items by their key, both in the items' order."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
