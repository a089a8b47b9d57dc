"""Recorded runs: the typed content of a run's result.json, the input of boards."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class BoardRun:
    """One recorded run.

    `settings` must be equal for two runs to be seeds of one entry; they include the revisions of model and data and the
    versions that may change a result. `audit` and the fields from `search` on are as in result.json, None where
    it has none.
    """

    folder: Path  # of a run in an archive ARCHIVE.parquet/FOLDER
    problem: str | None  # why the scores do not count
    suite: str
    task: str
    model: str
    model_substituted_for: str | None  # what the config names, where something offline replaces it
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
    gates: dict[str, Any] | None = None
    merge: dict[str, Any] | None = None
    forgetting: dict[str, Any] | None = None
    language: dict[str, Any] | None = None
    judged: dict[str, Any] | None = None

    @property
    def is_unfinished(self) -> bool:
        """Return whether the run is still in progress or was interrupted: it can be resumed."""
        return (self.problem or "").startswith(("running", "interrupted"))

    @property
    def source(self) -> tuple:
        """Return what must be equal for two runs to be on one board; substitutes never are with what they replace."""
        return self.suite, self.data, self.data_substituted_for, self.model_substituted_for is not None

    @cached_property
    def group(self) -> tuple:
        """Return what must be equal for two runs to be seeds of one entry, except the number of examples."""
        settings = json.dumps(self.settings, sort_keys=True)
        return *self.source, self.task, self.model, self.model_substituted_for, self.method, settings

    @property
    def identity(self) -> tuple:
        """Return what two records of the same run have in common."""
        return *self.group, tuple(sorted(self.examples.items())), self.seed


@dataclass(frozen=True)
class UnreadableRun:
    """A result.json that cannot be read."""

    folder: Path
    problem: str
    is_unfinished: ClassVar[bool] = False
