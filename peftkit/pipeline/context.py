"""What the stages of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from peftkit.config import RunConfig
from peftkit.config.source import Source
from peftkit.data.datasets import TaskDataset
from peftkit.data.formats import Encoded
from peftkit.pipeline.reference import Reference


@dataclass
class RunContext:
    """A run: its config, where its model comes from, its data, its folder, and the result that the stages fill."""

    config: RunConfig
    model_source: Source
    dataset: TaskDataset
    folder: Path
    result: dict[str, Any]

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def first_validation(self) -> str:
        """The name of the validation split on which the trained model is verified."""
        return str(self.config.task.splits["validation"][0])


@dataclass(frozen=True)
class Examples:
    """The examples of a run before they are encoded."""

    train: Dataset
    requested: int  # training examples of the task, before a teacher drops or adds any
    validation: dict[str, Dataset]
    holdout: Dataset | None  # of the training split; the best epoch is chosen on it
    reference: Reference


@dataclass(frozen=True)
class EncodedSplits:
    """The encoded examples of a run. `holdout` is scored after each epoch."""

    train: Encoded
    validation: dict[str, Encoded]
    holdout: Encoded | None
