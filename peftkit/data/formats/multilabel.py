"""Multi-label classification: any number of labels for a text, each predicted from a probability of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, List, Value
from transformers import DataCollatorWithPadding

from peftkit.config import Refusal, TaskConfig, UserError
from peftkit.config.console import assume
from peftkit.config.label_names import label_name
from peftkit.config.quoting import typed
from peftkit.data.batches import padding_multiple
from peftkit.data.cells import CellError, describe, is_missing, parse_cells, text_of
from peftkit.data.columns import ID, ROW, require_columns
from peftkit.data.datasets import SUBSET_SEED
from peftkit.data.formats.base import Encoded, Predictions, hidden_count
from peftkit.data.formats.classification import ClassLabelReader, SequenceClassificationFormat, class_feature
from peftkit.data.labels import SEPARATORS, label_text
from peftkit.data.stratified import stratified_split
from peftkit.data.tables import is_list_text, parse_list

FLAGS = {"0": 0, "false": 0, "1": 1, "true": 1}  # of a label in a column or a place of its own
HIDDEN = "-1"  # in the columns of all labels


class MultilabelReader(ClassLabelReader):
    """Reads the labels of each example: a list, a text with a separator, 0 and 1 in a list or in a column of each."""

    @property
    def label_feature(self) -> Any:
        return List(Value("int64"))

    @property
    def is_stratified(self) -> bool:
        return self.task.stratify is not False

    def label_names(self, tables: Mapping[str, Dataset]) -> list[str] | None:
        """Return the names of the columns, of `task.labels`, of a ClassLabel, or those that occur.

        Raises:
            UserError: as the method above, or the labels are 0 and 1 without names.
        """
        if isinstance(self.task.label, list):
            return list(self.task.label)
        names = super().label_names(tables) or []
        if self.task.labels is not None or not {*names} <= {*FLAGS}:
            return names
        rows = [row for name, table in tables.items() for row in self.raw_labels(table, name) if row is not None]
        if any(len({*row}) < len(row) for row in rows) and (width := _width(rows)) is not None:
            fix = typed("task.labels", [f"label_{number}" for number in range(1, width + 1)])
            wrong = (
                f"{self.task.dataset}: column {self.task.label} has 0 and 1 for each of {width} labels without names"
            )
            raise UserError(Refusal(f"{wrong}; set {fix}, with your own names", fix))
        return names

    def raw_labels(self, table: Dataset, split: str) -> list[Any]:
        """Return the names of each example's labels as a list, None where they are hidden."""
        if isinstance(self.task.label, list):
            return self._from_columns(self.task.label, table, split)
        label = str(self.task.label)
        if label not in table.column_names:
            return [None] * len(table)
        cells = table[label][:]
        found = (each for each in SEPARATORS if any(isinstance(cell, str) and each in cell for cell in cells))
        fix = next((typed("task.label_separator", each) for each in found), "task=classification")
        place = f"{self.task.dataset}: column {label} of {split}"
        return parse_cells(cells, lambda cell: self._parse(cell, fix), place, table[ROW])

    def label_parser(self, table: Dataset, names: list[str] | None, split: str) -> Callable[[Any], Any]:
        names = names or []
        if isinstance(self.task.label, list):
            numbers = {name: number for number, name in enumerate(names)}
            return lambda labels: sorted(numbers[name] for name in labels)
        known = [row for row in self.raw_labels(table, split) if row is not None]
        if class_feature(self.task, table) is None and not {*names} & {*FLAGS} and _width(known) == len(names):
            return lambda labels: [number for number, flag in enumerate(labels) if FLAGS[flag]]
        class_id = self.class_id(table, names, split)
        return lambda labels: sorted({class_id(label) for label in labels})

    def split(self, examples: Dataset, size: float, use: str = "validation") -> tuple[Dataset, Dataset]:
        """Split off a number or a share of examples with the shares of the sets of labels, the same for every seed."""
        if not self.is_stratified:
            return super().split(examples, size, use)
        labels = self.raw_labels(examples, "train") if ID in examples.column_names else examples["label"][:]
        sets = [None if label is None else tuple(sorted(label)) for label in labels]
        kept, held_out = stratified_split(sets, size, SUBSET_SEED)
        counts = f"{len(held_out):,} of {len(labels):,} examples"
        assume(f"{counts} are held out for {use}, stratified by their sets of labels", waits=True)
        return examples.select(kept).flatten_indices(), examples.select(held_out).flatten_indices()

    def _parse(self, cell: Any, fix: str) -> list[str] | None:
        """Return the labels of a cell, None where they are hidden; `fix` is suggested where it has one text."""
        separator, is_list = self.task.label_separator, isinstance(cell, list | tuple)
        if not is_list and separator is not None:
            return [name for part in text_of(cell).split(separator) if (name := label_text(part))]
        if is_missing(cell):
            return None
        if not is_list and not (isinstance(cell, str) and is_list_text(cell.strip())):
            raise CellError(f"{describe(cell)}, not a list of labels; write a list", fix=fix)
        names = [label_text(item) for item in parse_list(cell, may_be_numbers=True)]
        if None in names:
            raise CellError(f"{describe(cell)}, one of them empty; leave it out of the list")
        return [str(name) for name in names]

    def _from_columns(self, columns: Sequence[str], table: Dataset, split: str) -> list[Any]:
        """Return the names of the columns with a 1; None where all are empty or -1."""
        if not {*columns} & {*table.column_names}:
            return [None] * len(table)
        require_columns(self.task, table, columns)
        flags = [
            parse_cells(table[name][:], _flag, f"{self.task.dataset}: column {name} of {split}", table[ROW])
            for name in columns
        ]
        rows: list[Any] = []
        for number, row in zip(table[ROW][:], zip(*flags, strict=True), strict=True):
            if None in row and {*row} != {None}:
                name = columns[row.index(None)]
                raise UserError(
                    f"{self.task.dataset}: row {number} of {split} has no 0 or 1 in column {name}; write it"
                )
            rows.append(None if None in row else [name for name, flag in zip(columns, row, strict=True) if flag])
        return rows


class MultilabelCollator(DataCollatorWithPadding):
    """Pads examples, and makes the targets (examples, labels) of 0 and 1 from the ids of their labels."""

    num_labels = 0

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        inputs = [{name: value for name, value in each.items() if name != "labels"} for each in features]
        batch = super().__call__(inputs)
        if "labels" in features[0]:
            batch["labels"] = torch.tensor(_indicators([each["labels"] for each in features], self.num_labels)).float()
        return batch


@dataclass(frozen=True)
class MultilabelFormat(SequenceClassificationFormat):
    """Several labels for an example; labels and predictions are 0 and 1 for each label (examples, labels)."""

    reader = MultilabelReader

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        collate = MultilabelCollator(self.tokenizer, pad_to_multiple_of=padding_multiple(self.context_length))
        collate.num_labels = len(self.names or [])
        return collate

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        return Predictions(self.choose(np.stack(scores)), scores)

    def choose(self, scores: np.ndarray) -> np.ndarray:
        """Return the predicted labels as 0 and 1 (examples, labels)."""
        return chosen_labels(scores, self.score_thresholds).astype(int)

    def describe(self, prediction: Any) -> Any:
        """Return the names of labels, in a list or with the separator of the task."""
        return label_set(self.task, self.names or [], np.flatnonzero(prediction))

    def recorded(self, values: Any) -> list[Any]:
        return [np.flatnonzero(row).tolist() for row in values]

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        counts = encoded.labels[encoded.has_label].sum(0)
        return dict(zip(self.names or [], counts.tolist(), strict=True)) | hidden_count(encoded)

    def label_values(self, examples: Dataset) -> np.ndarray:
        return _indicators(examples["label"][:], len(self.names or []))

    def _targets(self, examples: Dataset) -> list[Any]:
        return [label or [] for label in examples["label"][:]]


def chosen_labels(scores: np.ndarray, thresholds: Sequence[float] | None) -> np.ndarray:
    """Return whether each label is predicted (examples, labels): its score reaches its threshold, by default 0."""
    return scores >= np.array(thresholds or 0)


def label_set(task: TaskConfig, names: Sequence[str], ids: Sequence[int] | np.ndarray) -> Any:
    """Return the names of labels in the form of the training data: a list, or a text with the separator of the task."""
    found = [names[number] for number in ids]
    return found if task.label_separator is None else task.label_separator.join(found)


def _indicators(labels: Sequence[Sequence[int] | None], count: int) -> np.ndarray:
    """Return 0 and 1 for each label (examples, labels) from the ids of each example's labels."""
    rows: np.ndarray = np.zeros((len(labels), count), dtype=int)
    for row, ids in zip(rows, labels, strict=True):
        row[list(ids or ())] = 1
    return rows


def _flag(cell: Any) -> int | None:
    """Return 0 or 1 of a cell, None where it is hidden."""
    name = None if is_missing(cell) or cell == "" else label_name(cell)
    if name is None or name == HIDDEN:
        return None
    if name not in FLAGS:
        raise CellError(f"{name[:40]}, neither 0 nor 1; write one of them, or name other columns in task.label")
    return FLAGS[name]


def _width(rows: Sequence[Sequence[str]]) -> int | None:
    """Return the length of rows of 0 and 1 that all are of one length above 1; None for other rows."""
    lengths = {len(row) for row in rows}
    is_flags = len(lengths) == 1 and max(lengths) > 1 and all({*row} <= {*FLAGS} for row in rows)
    return lengths.pop() if is_flags else None
