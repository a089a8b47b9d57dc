"""Checks for data whose scores mean nothing: constant labels, labels in the text, validation that was trained on."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from peftkit.config import TaskConfig, UserError, kind_of
from peftkit.config.quoting import typed
from peftkit.config.suggestions import listed
from peftkit.data.arrow_columns import TEXTS, Cells, arrow_column, cells_of, dtype_of
from peftkit.data.columns import text_columns
from peftkit.data.labels import MULTILABEL, joined_labels

MIN_UNIQUE = 20  # training examples, from which on labels that are all different are no classes


def check_texts(task: TaskConfig, texts: Sequence[Cells], labels: Sequence[Any]) -> None:
    """Refuse training examples whose text is the label.

    Args:
        texts: the columns of `task.text`.

    Raises:
        UserError: in every example one column of the texts equals the label.
    """
    for column, cells in zip(task.text, texts, strict=True):
        if labels and all(map(_same, cells_of(cells), labels)):
            raise UserError(
                f"{task.dataset}: in every training example the column {column} equals the label {task.label}; "
                "set task.text to the columns that are read, and task.label to the one that is predicted"
            )


def check_examples(
    task: TaskConfig, splits: Mapping[str, Dataset], names: list[str] | None, may_overlap: bool
) -> list[str]:
    """Refuse one class or a constant label in the training split, and a validation split that it contains.

    Return remarks on labels that only the validation split has, and on validation examples that were trained on.

    Args:
        may_overlap: the validation split is a random part of the training data, whose duplicates are only stated.

    Raises:
        UserError: training or validation shows nothing.
    """
    train = splits[str(task.splits["train"])]
    if task.kind == "retrieval":
        _check_pairs(task, train)
    labels, remarks = _labels(train), []
    is_set = kind_of(task).several_labels
    if is_set:
        remarks += _check_label_sets(task, train, names or [])
    elif len(train) > 1 and len(labels) == 1:
        (label,) = labels
        shown = names[label] if names is not None and isinstance(label, int) else f"{label!s:.60}"
        raise UserError(
            f"{task.dataset}: the training examples have only the label {shown}, so there is nothing to learn; "
            f"add examples with other labels, or set task.label to another column than {task.label}"
        )
    if names is not None and not is_set and len(labels) == len(train) >= MIN_UNIQUE:
        raise UserError(
            f"{task.dataset}: each of the {len(train)} training examples has a label of its own, as an id or a number; "
            f"use task=regression, or set task.label to another column than {task.label}"
        )
    if names is not None and kind_of(task).chooses_class:
        remarks += _joined_labels(train, names)
    for name, split in ((name, split) for name, split in splits.items() if name != task.splits["train"]):
        found = _labels(split)
        if unseen := sorted(found - labels) if names is not None else []:
            shown = listed(names[label] if isinstance(label, int) else str(label) for label in unseen)  # type: ignore[index]
            remarks.append(
                f"!! the label {shown} occurs in {name} and never in {task.splits['train']}: it cannot be learned"
            )
        if labels and not is_set and len(split) > 1 and len(found) == 1:
            remarks.append(f"!! every labeled example of {name} has one label, so its scores show little")
        repeated = _count_repeated(task, train, split)
        if repeated == len(split) and not may_overlap:
            raise UserError(
                f"{task.dataset}: every example of {name} is a training example too; use other examples, "
                "or remove the file so that a tenth of the training examples is held out"
            )
        if repeated:
            remarks.append(f"!! {repeated} of {len(split)} examples of {name} occur in {task.splits['train']} too")
    return remarks


def _joined_labels(train: Dataset, names: Sequence[str]) -> list[str]:
    """Return a remark on labels that are several of the others in one text."""
    if (found := joined_labels(names)) is None:
        return []
    separator, joined = found
    count = sum(names[label] in joined for label in train["label"][:])
    return [
        f"!! {len(joined)} of {len(names)} labels join others by '{separator}' ({listed(joined)}), in {count:,} of "
        f"{len(train):,} training examples; each of them is a class of its own. To predict several labels for a text, "
        f"use {MULTILABEL} {typed('task.label_separator', separator)}"
    ]


def _check_label_sets(task: TaskConfig, train: Dataset, names: Sequence[str]) -> list[str]:
    """Refuse training examples that all have the same labels; return a remark on those that have none.

    Raises:
        UserError: there is nothing to learn.
    """
    sets = Counter(map(tuple, train["label"][:]))
    if len(train) > 1 and len(sets) == 1:
        (only,) = sets
        same = listed(names[number] for number in only) or "(none)"
        raise UserError(
            f"{task.dataset}: the training examples all have the labels {same}, so there is nothing to learn; add "
            "examples with others, or set task.label to other columns"
        )
    return [f"   {sets[()]:,} of {len(train):,} training examples have no label"] if sets[()] else []


def _check_pairs(task: TaskConfig, examples: Dataset) -> None:
    """Refuse pairs that are found without reading: every query is its document, or there is one document."""
    query, document = task.text[:2]
    queries, documents = (examples[column][:] for column in text_columns(task)[:2])
    if all(map(_same, queries, documents)):
        raise UserError(
            f"{task.dataset}: in every example the columns {query} and {document} are equal; set task.text to others"
        )
    if len(documents) > 1 and len(set(documents)) == 1:
        raise UserError(
            f"{task.dataset}: every example has the same {document}, so there is nothing to find; add other ones"
        )


def _labels(examples: Dataset) -> set[Any]:
    """Return the labels that occur; of lists of labels, their items."""
    labels = arrow_column(examples, "label")
    if pa.types.is_struct(labels.type):  # answers to questions differ by their positions
        return set()
    if pa.types.is_list(labels.type) and not pa.types.is_nested(labels.type.value_type):
        labels = pc.list_flatten(labels)
    values = labels if pa.types.is_nested(labels.type) else labels.unique()
    return {_key(label) for label in values.to_pylist()} - {None}


def _count_repeated(task: TaskConfig, train: Dataset, split: Dataset) -> int:
    """Return how many examples of a split are training examples too, with the same texts and label."""
    columns = [name for name in (*text_columns(task), "messages", "label") if name in train.column_names]
    plain = [name for name in columns if {dtype_of(train, name), dtype_of(split, name)} <= TEXTS]
    for name in plain[:1]:
        trained, scored = arrow_column(train, name), arrow_column(split, name)
        train = train.select(np.flatnonzero(pc.is_in(trained, scored)))  # the others differ in this text
        split = split.select(np.flatnonzero(pc.is_in(scored, trained)))
    keys = set(_keys(train, columns))
    return sum(key in keys for key in _keys(split, columns))


def _keys(examples: Dataset, columns: Sequence[str]) -> list[Hashable]:
    """Return a hash of the texts and the label of each example."""
    return [hash(tuple(map(_key, row))) for row in zip(*(examples[name][:] for name in columns), strict=True)]


def _key(value: Any) -> Hashable:
    return value if isinstance(value, Hashable) else repr(value)


def _same(text: Any, label: Any) -> bool:
    labels = label if isinstance(label, list) else [label]  # several references
    is_one = isinstance(text, str) and any(isinstance(each, str) and text.strip() == each.strip() for each in labels)
    return is_one or text == label
