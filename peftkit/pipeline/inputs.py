"""Inputs of predictions: texts and tables without labels, as examples of a task."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from datasets import Dataset

from peftkit.config import TaskConfig, UserError
from peftkit.data.arrow_columns import unhashed
from peftkit.data.cells import parse_cells, text_of
from peftkit.data.columns import ROW, text_columns
from peftkit.data.datasets import example_reader

SEPARATOR = "||"  # between two texts of one input


def text_table(task: TaskConfig, texts: Sequence[str | Sequence[str]], split: bool = True) -> Dataset:
    """Return texts as a table of the task's columns; a pair is a sequence or, with `split`, two texts separated by ||.

    Raises:
        UserError: a text has too few or too many parts.
    """
    columns, rows = input_columns(task), []

    def parts_of(text: Any) -> list[str]:
        return [text_of(part) for part in (text if isinstance(text, list | tuple) else [text])]

    for text, parts in zip(texts, parse_cells(texts, parts_of, "input"), strict=True):
        if isinstance(text, str) and split and len(columns) > 1:
            parts = [part.strip() for part in text.split(SEPARATOR)]
        if task.kind == "instructions":
            parts += [""] * (len(columns) - len(parts))  # an instruction may have no input
        if len(parts) != len(columns):
            raise UserError(
                f"the run reads {', '.join(columns)}; separate them by {SEPARATOR}: input='first {SEPARATOR} second'"
            )
        rows.append(dict(zip(columns, parts, strict=True)))
    return Dataset.from_list(rows)


def input_columns(task: TaskConfig) -> list[str]:
    """Return the columns that predictions need; for preferences only the prompt."""
    return task.text[:1] if task.kind == "preferences" else list(task.text)


def unlabeled_examples(task: TaskConfig, table: Dataset, rows: Sequence[int], name: str) -> Dataset:
    """Return rows of a prepared table as examples of the task, without labels."""
    return text_examples(task, parse_texts(task, table.select(rows), name), rows)


def text_examples(task: TaskConfig, texts: Sequence[Sequence[Any]], rows: Sequence[int]) -> Dataset:
    """Return the parsed texts of each column as examples of the task, without labels."""
    columns = dict(zip(text_columns(task), texts, strict=True))
    return unhashed(pa.table({"id": pa.array(rows), **columns, "label": pa.nulls(len(rows))}))


def parse_texts(task: TaskConfig, table: Dataset, name: str) -> list[list[Any]]:
    """Return the parsed texts of each column of a prepared table; empty ones where it lacks the column."""
    parse = example_reader(task).parse_text
    return [
        parse_cells(table[column][:], parse, f"{name}: column {known}", table[ROW])
        if column in table.column_names
        else [""] * len(table)
        for known, column in zip(task.text, text_columns(task), strict=True)
    ]
