"""What a report reads from a run folder: result.json, the predictions and the log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from peftkit.config import RunConfig, TaskConfig, UserError, error_summary, kind_of
from peftkit.paths import is_file, read_regular
from peftkit.results import run_folder
from peftkit.results.page import Html, element

SHOWN_CHARACTERS = 600  # of a text in a table


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Args:
        warnings: what a reader should see first, at the top of the page and in the terminal.
        lines: of the terminal.
    """

    title: str
    content: Sequence[Html]
    warnings: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunData:
    """A finished run: result.json, its labeled predictions, and the entries of its log.

    `columns` are those of predictions.parquet without the numbers for each class; of these, `scores` (examples,
    classes) are read where an example has one class.
    """

    folder: Path
    record: dict[str, Any]
    columns: dict[str, list[Any]]
    scores: np.ndarray | None
    log: list[dict[str, Any]]

    @cached_property
    def config(self) -> RunConfig:
        return RunConfig.from_config(self.record["run"]["config"])

    @property
    def names(self) -> list[str]:
        """The names of the classes or tags; empty where the task has none."""
        return self.record["audit"].get("label_names") or []

    @property
    def audit(self) -> dict[str, Any]:
        return self.record["audit"]  # type: ignore[no-any-return]

    @property
    def train_split(self) -> str:
        return str(self.config.task.splits["train"])

    @property
    def splits(self) -> str:
        """The names of the scored splits, of a cross-validation its own, and the number of their labeled examples."""
        names = " and ".join(dict.fromkeys(self.columns.get("split") or self.config.task.splits["validation"]))
        return f"{names} ({len(self.columns['id']):,} scored examples)"

    @property
    def text_columns(self) -> list[str]:
        """The columns of texts; an earlier version of peftkit recorded none."""
        return [name for name in self.columns if name not in run_folder.PREDICTION_COLUMNS]

    @property
    def text_note(self) -> str:
        """A remark where the predictions have no texts."""
        return "" if self.text_columns else " This run was recorded before peftkit recorded the texts with predictions."

    def array(self, name: str) -> np.ndarray:
        return np.asarray(self.columns[name])

    def row(self, number: int, *cells: object) -> list[object]:
        """Return the row of an example in a table with `headings`: its id, these cells, and its texts."""
        texts = (text_of(self.columns[name][number]) for name in self.text_columns)
        return [str(self.columns["id"][number]), *cells, *map(text_cell, texts)]

    def headings(self, *names: str) -> list[str]:
        return ["id", *names, *self.text_columns]


def read_run(folder: Path) -> RunData:
    """Read a finished run; examples whose label is hidden are left out.

    Raises:
        UserError: the run is not finished, or a file of it cannot be read.
    """
    record = None if is_file(folder / "vocabulary.json") else run_folder.read_result(folder)
    if record is None or record["meta"].get("status") != "finished":
        raise UserError(f"{folder} is not a finished run; a report needs its scores")
    task = RunConfig.from_config(record["run"]["config"]).task
    columns, scores = _read_predictions(folder / "predictions.parquet", task)
    return RunData(folder, record, columns, scores, _log_entries(folder / "log.jsonl"))


def text_of(value: Any) -> str:
    """Return the text of a cell of predictions.parquet: a text, a list of words, or the turns of a conversation."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in value)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def text_cell(text: str) -> Html:
    """Return a text with its line breaks, cut where it is long."""
    is_long = len(text) > SHOWN_CHARACTERS
    return element("span", f"{text[:SHOWN_CHARACTERS]}…" if is_long else text, class_="text")


def _read_predictions(file: Path, task: TaskConfig) -> tuple[dict[str, list[Any]], np.ndarray | None]:
    """Return the columns of the scored examples, and their scores if each has one class."""
    import pyarrow.parquet as pq

    has_classes = kind_of(task).has_label_names and kind_of(task).sequence_label
    try:
        if not is_file(file):
            raise OSError("no such file, or not a regular one")
        names = [name for name in pq.read_schema(file).names if name not in ("scores", "probabilities")]
        table = pq.read_table(file, columns=[*names, *(["scores"] if has_classes else [])])
        if task.label is not None:
            table = table.filter(table["label"].is_valid())
        scores = np.stack(table["scores"].to_numpy()) if has_classes and len(table) else None
        return dict(table.select(names).to_pydict()), scores
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are among these
        raise UserError(f"{file} cannot be read: {error_summary(error)}; train the run again") from error


def _log_entries(file: Path) -> list[dict[str, Any]]:
    """Return the entries of a log; none where there is no log, such as after prompting."""
    lines: list[str] = []
    with suppress(OSError, UnicodeDecodeError):
        lines = read_regular(file).decode().splitlines()
    entries = []
    for line in lines:
        with suppress(ValueError, RecursionError):  # a line that was cut off
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict)]
