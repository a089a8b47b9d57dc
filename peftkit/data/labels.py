"""Reading of label columns: names of classes, class ids and numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset, Value

from peftkit.config import TaskConfig, UserError, kind_of
from peftkit.data.datasets import ExampleReader, require_columns

NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
MAX_CLASSES = 1000


@dataclass(frozen=True)
class ClassLabelReader(ExampleReader):
    """Reads labels that are names of classes: one for each example here, a list of them in subclasses."""

    def label_names(self, tables: Mapping[str, Dataset]) -> list[str]:
        """Return the names of `task.labels`, else those of a ClassLabel, else those that occur.

        Raises:
            UserError: no table has the label column, there are too many classes, or splits number them differently.
        """
        task = self.task
        if task.labels is not None:
            return [str(name) for name in task.labels]
        labelled = {name: table for name, table in tables.items() if task.label in table.column_names}
        for table in tables.values() if not labelled else ():
            require_columns(task, table, [str(task.label)])
        for table in labelled.values():
            if (feature := class_feature(task, table)) is not None:
                return list(feature.names)
        names: set[str] = set()
        for split, table in labelled.items():
            more = {name for label in self.raw_labels(table) if label is not None for name in self.class_names(label)}
            more -= names
            if len(names) + len(more) > MAX_CLASSES:
                raise UserError(
                    f"column {task.label} has over {MAX_CLASSES} classes; use task=regression, or set task.label"
                )
            if names and more and all(NUMBER.fullmatch(name) for name in names):
                # 0 to 2 and 1 to 3 are two numberings, and no rare class
                raise UserError(
                    f"label {join_names(more)} of {split} is not among {next(iter(labelled))}'s {join_names(names)}; "
                    f"use one numbering, or set task.labels=[{join_names(names | more, ',')}]"
                )
            names |= more
        return sort_names(names)

    def class_names(self, label: Any) -> Iterable[str]:
        """Return the class names in a raw label."""
        return [label]

    def raw_labels(self, table: Dataset) -> list[Any]:
        has_hidden = self.task.suite == "glue" or class_feature(self.task, table) is not None
        labels = [label_text(label) for label in self._label_column(table)]
        return [None if has_hidden and label == "-1" else label for label in labels]

    def class_id(self, table: Dataset, names: list[str], split: str) -> Callable[[str], int]:
        """Return a function from a class name to its id."""
        classes = _class_ids(self.task, table, names)

        def number(label: str) -> int:
            if label not in classes:
                raise UserError(
                    f"label {label} of {split} is not among {join_names(names)}; correct it, or set task.labels=[...]"
                )
            return classes[label]

        return number


@dataclass(frozen=True)
class SequenceLabelReader(ClassLabelReader):
    """Reads one class for each example, or one number where the kind has no classes."""

    @property
    def label_feature(self) -> Any:
        return Value("int64" if kind_of(self.task).has_label_names else "float64")

    def label_names(self, tables: Mapping[str, Dataset]) -> list[str] | None:  # type: ignore[override]
        return super().label_names(tables) if kind_of(self.task).has_label_names else None

    def label_parser(self, table: Dataset, names: list[str] | None, split: str) -> Callable[[Any, Sequence[Any]], Any]:
        if names is None:
            return lambda label, texts: _number(label)
        class_id = self.class_id(table, names, split)
        return lambda label, texts: class_id(label)


def class_feature(task: TaskConfig, table: Dataset) -> ClassLabel | None:
    """Return the ClassLabel of the label column, or of the tags in it."""
    feature = table.features.get(task.label)
    feature = getattr(feature, "feature", feature)
    return feature if isinstance(feature, ClassLabel) else None


def label_text(label: Any) -> str | None:
    """Return a label as text, None where it is missing; 1.0, which pandas writes for 1 beside empty cells, is 1."""
    if label is None or (isinstance(label, float) and math.isnan(label)):
        return None
    return re.sub(r"^(-?[0-9]+)\.0+$", r"\1", str(label).strip()) or None


def join_names(names: Sequence[str] | set[str], comma: str = ", ") -> str:
    """Return names in one line; those of a set are sorted."""
    return comma.join(sort_names(names) if isinstance(names, set) else names)


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort numbers by value, so that 2 comes before 10, and before words."""
    return sorted(names, key=lambda name: (0, float(name), name) if NUMBER.fullmatch(name) else (1, 0.0, name))


def _class_ids(task: TaskConfig, table: Dataset, names: list[str]) -> dict[str, int]:
    """Return the class id of every possible label: a name, or a number that is unambiguously an id."""
    feature = class_feature(task, table)
    if feature is not None:
        if set(feature.names) <= set(names):
            return {str(number): names.index(name) for number, name in enumerate(feature.names)}
        if len(feature.names) != len(names) or set(feature.names) & set(names):
            raise UserError(
                f"column {task.label} has the classes {join_names(feature.names)}, task.labels has "
                f"{join_names(names)}; name all of them, or rename every one in their order"
            )
        return {str(number): number for number in range(len(names))}
    classes = {str(label_text(name)): number for number, name in enumerate(names)}
    if task.labels is not None and not any(NUMBER.fullmatch(name) for name in names):
        classes |= {str(number): number for number in range(len(names))}
    return classes


def _number(label: str) -> float:
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"label {label} is not a number; leave it empty where it is hidden, or use task=classification")
    return value
