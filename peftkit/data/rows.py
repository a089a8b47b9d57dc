"""Turn a task into labelled rows, with a count of everything that was left out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, load_dataset

from peftkit.schema import Task, UserError
from peftkit.source import Source, hub_answers

READERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
SUBSET_SEED = 0  # the rows of max_train_rows are the same for every seed of a comparison


@dataclass(frozen=True)
class Rows:
    """The rows of a task: `splits` hold the columns id, one or two texts, and label.

    A label is an int that counts into `label_names`, or a float where `label_names` is None (regression).
    """

    splits: dict[str, Dataset]
    label_names: list[str] | None
    source: Source
    dropped: dict[str, int] = field(default_factory=dict)


def load_rows(task: Task, data_root: str | None, source: str) -> Rows:
    """Read the splits that the task names, drop and count the rows without text or label, map labels to ids.

    Raises:
        UserError: a column or a split is missing, or a label is none of the task's.
    """
    tables, origin = _read(task, data_root, source)
    wanted = [name for name in (task.splits["train"], *task.splits["validation"]) if name]
    if not set(wanted) <= set(tables) and "train" in tables and task.suite == "own":
        parts = tables["train"].train_test_split(test_size=0.1, seed=SUBSET_SEED)
        tables = {"train": parts["train"], "validation": parts["test"]}
    missing = [name for name in wanted if name not in tables]
    if missing:
        raise UserError(f"{origin.name} has the splits {', '.join(tables)}, not {', '.join(missing)}; set task.splits")
    names = _label_names(task, tables[wanted[0]])
    splits, dropped = {}, {}
    for name in wanted:
        is_train = name == task.splits["train"]
        limit = task.max_train_rows if is_train else task.max_eval_rows
        rows, lost = _clean(task, tables[name], names, is_train)
        splits[name], dropped[name] = _subset(rows, limit), lost
    return Rows(splits, names, origin, dropped)


def read_file(path: Path) -> Dataset:
    """Read one csv, tsv, jsonl or parquet file.

    Raises:
        UserError: the file has another ending.
    """
    if path.suffix not in READERS:
        raise UserError(f"{path} is none of csv, tsv, jsonl and parquet; convert it, or name another file")
    options = {"sep": "\t"} if path.suffix == ".tsv" else {}
    return load_dataset(READERS[path.suffix], data_files=str(path), split="train", keep_in_memory=True, **options)


def _read(task: Task, data_root: str | None, source: str) -> tuple[dict[str, Dataset], Source]:
    if data_root is not None:
        folder = Path(data_root) / task.name
        return _read_folder(folder), Source("folder", str(folder))
    path = Path(task.dataset)
    if path.is_dir():
        return _read_folder(path), Source("folder", str(path))
    if path.is_file():
        return {"train": read_file(path)}, Source("folder", str(path))
    if source != "embedded" and hub_answers():
        task = replace(task, revision=_commit(task))
        return _from_hub(task), Source("hub", task.dataset, task.revision)
    if source != "embedded" and (cached := _from_cache(task)) is not None:
        return cached, Source("cache", task.dataset, task.revision)
    if source == "hub" or task.suite != "glue":
        raise UserError(
            f"the Hub does not answer and {task.dataset} is not in its cache; "
            "try again with a network, data_root=FOLDER, or a GLUE task with source=embedded"
        )
    from peftkit.data.miniglue import miniglue

    tables = {name: Dataset.from_list(rows) for name, rows in miniglue(task.name).items()}
    return tables, Source("embedded", "miniglue", substituted_for=task.dataset)


def _read_folder(folder: Path) -> dict[str, Dataset]:
    files = {file.stem: file for file in sorted(folder.glob("*")) if file.suffix in READERS}
    if not files:
        raise UserError(f"{folder} holds no csv, tsv, jsonl or parquet files; name a folder with train.* in it")
    return {name: read_file(file) for name, file in files.items()}


def _from_hub(task: Task) -> dict[str, Dataset]:
    loaded = load_dataset(task.dataset, task.subset, revision=task.revision)
    assert isinstance(loaded, DatasetDict)
    return {str(name): table for name, table in loaded.items()}


def _commit(task: Task) -> str:
    """Return the commit that the revision means today."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().dataset_info(task.dataset, revision=task.revision, timeout=10).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"the Hub has no dataset {task.dataset} at revision {task.revision}; look at task.dataset and task.revision"
        ) from error


def _from_cache(task: Task) -> dict[str, Dataset] | None:
    """Read the dataset from the Hub's cache with no network; None where it is not there."""
    try:
        return _from_hub(task)  # the libraries are told by now to stay off the network
    except (OSError, ValueError):  # what datasets raises for a dataset that is not cached
        return None


def _label_names(task: Task, table: Dataset) -> list[str] | None:
    if task.kind == "regression":
        return None
    if task.labels is not None:
        return list(task.labels)
    _need(task, table, [task.label])
    feature = table.features[task.label]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    found = {value for value in table[task.label] if value is not None}
    if len(found) > 1000:
        raise UserError(f"column {task.label} has {len(found)} different values; try task=regression, or task.label=")
    # numbers in their own order, so that 2 comes before 10
    return [str(value) for value in sorted(found, key=lambda v: (isinstance(v, str), v))]


def _clean(task: Task, table: Dataset, names: list[str] | None, is_train: bool) -> tuple[Dataset, int]:
    texts = list(task.text)
    has_label = task.label in table.column_names
    _need(task, table, texts + ([task.label] if is_train else []))
    columns = [table[column] for column in texts]
    labels = table[task.label] if has_label else [None] * len(table)
    ids = table["idx"] if "idx" in table.column_names else range(len(table))
    kept: dict[str, list[Any]] = {"id": [], **{column: [] for column in texts}, "label": []}
    for number, *values, label in zip(ids, *columns, labels, strict=True):
        value = _label(task, label, names)
        if any(text is None or not str(text).strip() for text in values) or (is_train and value is None):
            continue
        kept["id"].append(number)
        for column, text in zip(texts, values, strict=True):
            kept[column].append(str(text))
        kept["label"].append(-1 if value is None else value)
    if not kept["id"]:
        raise UserError(f"no row of task={task.name} has both text and label; look at task.text and task.label")
    return Dataset.from_dict(kept), len(table) - len(kept["id"])


def _label(task: Task, value: Any, names: list[str] | None) -> int | float | None:
    """Return the label's id or number; None where it is missing, or hidden as in GLUE's test sets (-1)."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or (task.suite == "glue" and value == -1):
        return None
    if names is None:
        try:
            return float(value)
        except ValueError:
            raise UserError(f"label {value!r} is no number; try task=classification, or another task.label") from None
    if str(value) in names:
        return names.index(str(value))
    if isinstance(value, int) and 0 <= value < len(names):  # a class id, as the Hub's datasets store them
        return value
    raise UserError(f"label {value!r} is none of {', '.join(names)}; set task.labels")


def _subset(rows: Dataset, limit: int | None) -> Dataset:
    if limit is None or limit >= len(rows):
        return rows
    return rows.shuffle(seed=SUBSET_SEED).select(range(limit)).flatten_indices()


def _need(task: Task, table: Dataset, columns: list[str]) -> None:
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise UserError(
            f"task={task.name} reads the columns {', '.join(missing)}, but there are {', '.join(table.column_names)}; "
            "set task.text and task.label"
        )
