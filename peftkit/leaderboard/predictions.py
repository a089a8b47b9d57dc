"""The predictions that runs recorded, with the examples to which they belong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftkit.config.record_schema import MAX_NUMBER
from peftkit.leaderboard.archive import read_predictions

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray


@dataclass(frozen=True)
class LabeledExamples:
    """The examples of a run whose label is known."""

    ids: Array  # (examples,) split and id, as text
    splits: Array
    labels: Array  # numbers, or objects that are lists

    @cached_property
    def key(self) -> int:
        """A hash of the examples, independent of their order."""
        return hash(tuple(sorted(zip(self.ids.tolist(), map(str, self.labels.tolist()), strict=True))))


@dataclass(frozen=True)
class RunPredictions:
    """The predictions (examples,) of one run."""

    examples: LabeledExamples
    predictions: Array


def read_run_predictions(folders: Sequence[Path]) -> list[RunPredictions | None]:
    """Return the predictions of each folder, or None where there are none that can be read.

    Runs of the same examples, in one order, share them.
    """
    found: list[RunPredictions | None] = []
    shared: tuple[pa.Table, LabeledExamples] | None = None
    for folder in folders:
        run = None
        try:
            if (table := read_predictions(folder)) is not None:
                table = table.filter(table["label"].is_valid()) if table["label"].null_count else table
                given, predictions = table.select(["id", "split", "label"]), np.asarray(table["prediction"])
                if shared is None or not given.equals(shared[0]):
                    shared = given, _labeled_examples(given)
                run = RunPredictions(shared[1], predictions) if _is_valid(predictions) else None
        except Exception:  # a damaged or foreign file; the board has a note on the entries without predictions
            run = None
        found.append(run)
    return found


def _labeled_examples(table: pa.Table) -> LabeledExamples:
    """Return the examples of a table with the columns id, split and label.

    Raises:
        ValueError: there are none, or ids, splits or labels are not what a run records.
    """
    splits, ids, labels = (np.asarray(table[name]) for name in ("split", "id", "label"))
    ids, names = ids.astype(str), set(splits.tolist())
    if not len(ids) or not all(isinstance(name, str) for name in names) or not _is_valid(labels):
        raise ValueError("no examples with labels")
    if names != {"validation"}:
        ids = np.char.add(np.char.add(splits.astype(str), "/"), ids)
    return LabeledExamples(ids, splits, labels)


def in_order(run: RunPredictions, reference: RunPredictions) -> RunPredictions | None:
    """Return the predictions in the order of the reference; None where examples or labels differ."""
    if run.predictions.dtype.kind != reference.predictions.dtype.kind:
        return None
    given, wanted = run.examples, reference.examples
    if given is wanted:
        return run
    if len(given.ids) != len(wanted.ids):
        return None
    order: Array = np.empty(len(given.ids), int)
    order[np.argsort(wanted.ids, kind="stable")] = np.argsort(given.ids, kind="stable")
    pair = given.labels[order], wanted.labels
    is_same = all(map(np.array_equal, *pair)) if is_list(wanted.labels) else np.array_equal(*pair)
    is_same = is_same and np.array_equal(given.ids[order], wanted.ids)
    return RunPredictions(wanted, run.predictions[order]) if is_same else None


def _is_valid(values: Array) -> bool:
    """Return whether a column has finite numbers only, or lists and texts only."""
    if is_list(values):
        return all(isinstance(each, str | np.ndarray | list) for each in values)
    return bool(np.isfinite(values).all() and (np.abs(values.astype(float)) < MAX_NUMBER).all())


def is_list(values: Array) -> bool:
    """Return whether a column has objects, such as lists and texts, instead of numbers."""
    return values.dtype.kind not in "iufb"
