"""Loading of a task's examples by the reader that its kind names."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from peftkit.config import TaskConfig, kind_of
from peftkit.data.examples import SEARCH_SPLIT, ExampleReader, TaskDataset
from peftkit.data.sources import evaluation_tables

if TYPE_CHECKING:
    from peftkit.data.formats.base import Format

__all__ = [
    "SEARCH_SPLIT", "TaskDataset", "evaluation_tables", "example_reader", "format_class", "load_task_dataset",
]  # fmt: skip


def load_task_dataset(
    task: TaskConfig, data_root: str | None, source: str, trained_on: str | None = None, search_samples: int = 0
) -> TaskDataset:
    """Read the splits that the task names; drop and count examples without text or label; map labels to ids.

    A tenth of train becomes the validation split of own data that has no other split. An evaluation of a run that
    trained on other data than this (`trained_on` is its revision) takes all of it. With `search_samples`, so many
    training examples become SEARCH_SPLIT and the others train; no validation split is read.

    Raises:
        UserError: a file cannot be read, a column or a split is missing, or a label is unknown.
    """
    return example_reader(task).load(data_root, source, trained_on, search_samples)


def example_reader(task: TaskConfig) -> ExampleReader:
    """Return the reader of a task's examples, which is the same for every architecture."""
    return format_class(task, next(iter(kind_of(task).formats))).reader(task)


def format_class(task: TaskConfig, architecture: str) -> type[Format]:
    """Return the format class that the record of the task's kind names for an architecture."""
    module, name = kind_of(task).formats[architecture].split(":")
    found: Any = getattr(import_module(f"peftkit.data.formats.{module}"), name)
    return found  # type: ignore[no-any-return]
