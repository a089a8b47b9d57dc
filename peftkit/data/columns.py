"""The columns that a task reads: found by name or by field, numbered by row, with ids, under names of their own."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from peftkit.config import TaskConfig, UserError, label_columns
from peftkit.config.checks.columns import missing_columns
from peftkit.config.console import assume
from peftkit.config.quoting import typed
from peftkit.data.arrow_columns import Cells, cells_of, parse_distinct, plain_column
from peftkit.data.cells import CellError, ids_of, parse_cells

T = TypeVar("T")

ID, ROW = "peftkit.id", "peftkit.row"  # columns that are added to a table: the id of an example, and its row from 1
DOMAIN = "peftkit.domain"  # column of examples with the name of the domain of each, where the task has domains
RESERVED = ("id", "label")  # columns of examples besides the texts
SUFFIX = " (text)"  # of a text column with the name of one of these


def text_columns(task: TaskConfig) -> list[str]:
    """Return the names of the texts' columns in examples: those of `task.text`, with a suffix for id and label."""
    return [f"{name}{SUFFIX}" if name in RESERVED else name for name in task.text]


def prepare_table(task: TaskConfig, table: Dataset, place: str) -> Dataset:
    """Return a table with the columns ID and ROW, and the text columns of a task under the names of `text_columns`.

    A name such as text.body reads the field body of the column text, where there is no column of that name. An id is
    that of the column `task.id`, or of idx or id, else the number of the row from 0.

    Args:
        place: of the table, for messages.

    Raises:
        UserError: there is no column `task.id`, or it has lists or objects.
    """
    chosen = [] if task.id is None else [task.id]
    for name in (*task.text, *label_columns(task), *chosen, *([task.domain] if task.domain is not None else [])):
        if name not in table.column_names and (cells := _field(table, name)) is not None:
            table = table.add_column(name, cells)
    require_columns(task, table, chosen)
    source = next((name for name in (*chosen, "idx", "id") if name in table.column_names), None)
    ids: Any = np.arange(len(table)) if source is None else _ids(table, source, place)
    if chosen and (repeated := len(table) - len({*cells_of(ids)})):
        assume(f"!! {place}: {repeated:,} of {len(table):,} rows repeat the id of another row in column {source}")
    added = Dataset.from_dict({ID: ids, ROW: np.arange(1, len(table) + 1)})
    table = concatenate_datasets([table, added], axis=1)
    renamed = {old: new for old, new in zip(task.text, text_columns(task), strict=True) if old != new}
    return table.rename_columns({old: new for old, new in renamed.items() if old in table.column_names})


def require_columns(task: TaskConfig, table: Dataset, columns: Sequence[str]) -> None:
    """Raise UserError where a column is missing."""
    known = [name.removesuffix(SUFFIX) for name in table.column_names if name not in (ID, ROW)]
    needed = [column.removesuffix(SUFFIX) for column in columns]
    if message := missing_columns(task, known, needed, task.dataset):
        raise UserError(message)


def parse_cells_of(task: TaskConfig, table: Dataset, column: str, split: str, parse: Callable[[Any], T]) -> list[T]:
    """Return the parsed cells of a column of a prepared table.

    Raises:
        UserError: `parse` raises a `CellError`.
    """
    with suppress(CellError):  # whose rows are found below
        if (parsed := parse_distinct(table, column, parse)) is not None:
            return parsed
    name = column if column in label_columns(task) else column.removesuffix(SUFFIX)
    place = f"{task.dataset}: column {name} of {split}"
    return parse_cells(table[column][:], parse, place, table[ROW], _column_hint(task, column))


def _column_hint(task: TaskConfig, column: str) -> Callable[[str], str]:
    """Return a function from a field of the objects in a column to the override that reads it."""

    def override(field: str) -> str:
        name = f"{column.removesuffix(SUFFIX)}.{field}"
        if column in label_columns(task):
            return typed("task.label", name)
        texts = zip(task.text, text_columns(task), strict=True)
        return typed("task.text", [name if known == column else text for text, known in texts])

    return override


def _ids(table: Dataset, name: str, place: str) -> Cells:
    """Return the ids of a column; texts and whole numbers are ids as they are."""
    column = plain_column(table, name)
    if column is None or column.null_count == len(column):
        return ids_of(table[name][:], f"{place}: column {name}")
    return column.cast(pa.int64() if pa.types.is_integer(column.type) else pa.string())


def _field(table: Dataset, name: str) -> list[Any] | None:
    """Return the values of a field of objects, such as text.body; None where no column has it."""
    for end in (index for index, character in enumerate(name) if character == "."):
        column, field = name[:end], name[end + 1 :]
        if column in table.column_names and isinstance(feature := table.features[column], dict) and field in feature:
            return [None if cell is None else cell[field] for cell in table[column][:]]
    return None
