"""Turn a task into labelled rows, with a count of everything that was left out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Value, load_dataset

from peftkit.data.files import read_file
from peftkit.schema import FILES, Task, UserError
from peftkit.source import Source, fingerprint, hub_answers

GLUE = "nyu-mll/glue"
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
SUBSET_SEED = 0  # the rows of max_train_rows are the same for every seed of a comparison


@dataclass(frozen=True)
class Rows:
    """The rows of a task: `splits` hold the columns id, one or two texts, and label.

    A label is an int that counts into `label_names`, or a float where `label_names` is None (regression); it is None
    where it is hidden, which no training row's is. `dropped` counts each split's rows without text, and the training
    split's without label.
    """

    splits: dict[str, Dataset]
    label_names: list[str] | None
    source: Source
    dropped: dict[str, int] = field(default_factory=dict)


def load_rows(task: Task, data_root: str | None, source: str, trained_on: str | None = None) -> Rows:
    """Read the splits that the task names, drop and count the rows without text or label, map labels to ids.

    A tenth of train becomes the validation split of own data that has no other split. An evaluation of a run that
    trained on other data than this (`trained_on` is its revision) takes all of it.

    Raises:
        UserError: a file cannot be read, a column or a split is missing, or a label is none of the task's.
    """
    tables, origin = _read(task, data_root, source)
    train, validation = task.splits["train"], list(task.splits["validation"])
    # an evaluation reads no training rows, but their labels say which classes there are
    source_of_names = train or "train"
    is_alone = task.suite == "own" and list(tables) == [source_of_names] and validation == ["validation"]
    wanted = [name for name in (train, *validation) if name]
    for name in wanted if not is_alone else ():
        if name not in tables:
            raise UserError(_missing_split(task, name, list(tables), origin.name))
    names = _label_names(task, {name: tables[name] for name in (source_of_names, *validation) if name in tables})
    if is_alone and train is None and origin.revision != trained_on:
        tables = {"validation": tables[source_of_names]}
    elif is_alone:  # after the names: a rare class may lie in the tenth alone
        tables = _carve(tables[source_of_names], source_of_names, origin.name)
    splits, dropped = {}, {}
    for name in wanted:
        rows, lost = _clean(task, tables[name], names, name)
        splits[name] = _subset(rows, task.max_train_rows if name == train else task.max_eval_rows)
        dropped[name] = lost
    return Rows(splits, names, origin, dropped)


def _read(task: Task, data_root: str | None, source: str) -> tuple[dict[str, Dataset], Source]:
    if data_root is not None:
        folder = Path(data_root) / task.name
        return _read_folder(folder), Source("folder", str(folder), fingerprint(folder, FILES))
    path = Path(task.dataset)
    if path.is_dir():
        return _read_folder(path), Source("folder", str(path), fingerprint(path, FILES))
    if path.is_file():
        return {"train": read_file(path)}, Source("folder", str(path), fingerprint(path))
    if source != "embedded" and hub_answers():
        task = replace(task, revision=_commit(task))
        return _from_hub(task), Source("hub", task.dataset, task.revision)
    if source != "embedded" and (cached := _from_cache(task)) is not None:
        return cached, Source("cache", task.dataset, task.revision)
    if source == "hub" or task.suite != "glue" or task.dataset != GLUE:
        raise UserError(
            f"{task.dataset} is no file or folder here, the Hub does not answer, and it is not in the Hub's cache; "
            "try again with a network, with data_root=FOLDER, or with a GLUE task as it is"
        )
    from peftkit.data.miniglue import miniglue

    tables = {name: Dataset.from_list(rows) for name, rows in miniglue(task.name).items()}
    return tables, Source("embedded", "miniglue", substituted_for=task.dataset)


def _read_folder(folder: Path) -> dict[str, Dataset]:
    files = {file.stem: file for file in sorted(folder.glob("*")) if file.suffix in FILES}
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


def _carve(table: Dataset, train: str, origin: str) -> dict[str, Dataset]:
    if len(table) < 2:
        raise UserError(f"{origin}: one row cannot be both train and validation; add rows")
    parts = table.train_test_split(test_size=0.1, seed=SUBSET_SEED)
    return {train: parts["train"], "validation": parts["test"]}


def _missing_split(task: Task, name: str, there: list[str], origin: str) -> str:
    """Return the sentence about it, with a guess at the split that is meant: dev before test."""
    train = task.splits["train"]
    key, starts = ("train", "train") if name == train else ("validation", ("val", "dev"))
    others = [other for other in there if name == train or other != train]
    best = min(others, key=lambda other: (not other.startswith(starts), other), default="...")
    example = best if key == "train" else f"[{best}]"
    return f"{origin} has the splits {', '.join(there)}, not {name}; say task.splits.{key}={example}"


def _label_names(task: Task, tables: Mapping[str, Dataset]) -> list[str] | None:
    """Return the names of the classes: the task's, a ClassLabel's, or what is found in the tables."""
    if task.kind == "regression":
        return None
    if task.labels is not None:
        return [str(name) for name in task.labels]
    labelled = {name: table for name, table in tables.items() if task.label in table.column_names}
    for table in tables.values() if not labelled else ():
        _need(task, table, [task.label])
    for table in labelled.values():
        if isinstance(feature := table.features[task.label], ClassLabel):
            return list(feature.names)
    found: set[str] = set()
    first = next(iter(labelled), "")
    for split, table in labelled.items():
        more = {text for text in _said(task, table) if text is not None} - found
        if len(found) + len(more) > 1000:
            raise UserError(f"column {task.label} has over 1000 different values; try task=regression, or task.label=")
        if found and more and all(NUMBER.fullmatch(text) for text in found):
            # 0 to 2 against 1 to 3 is another numbering, not a rare class
            raise UserError(
                f"label {_list(more)} of {split} is none of {first}'s {_list(found)}; number both alike, "
                f"or name all classes: task.labels=[{_list(found | more, ',')}]"
            )
        found |= more
    return _sorted(found)


def _clean(task: Task, table: Dataset, names: list[str] | None, split: str) -> tuple[Dataset, int]:
    texts, is_train = list(task.text), split == task.splits["train"]
    _need(task, table, texts + ([task.label] if is_train else []))
    columns = [table[column] for column in texts]
    ids = table["idx"] if "idx" in table.column_names else range(len(table))
    classes = None if names is None else _classes(task, table, names)
    kept: dict[str, list[Any]] = {"id": [], **{column: [] for column in texts}, "label": []}
    for number, *values, said in zip(ids, *columns, _said(task, table), strict=True):
        if any(value is None or not str(value).strip() for value in values) or (is_train and said is None):
            continue
        if said is not None and classes is not None and said not in classes:
            known = _list(names or [])
            raise UserError(f"label {said} of {split} is none of {known}; mend it, or name all in task.labels=[...]")
        kept["id"].append(number)
        for column, value in zip(texts, values, strict=True):
            kept[column].append(str(value))
        kept["label"].append(None if said is None else _number(said) if classes is None else classes[said])
    if not kept["id"]:
        raise UserError(f"no row of task={task.name} has both text and label; look at task.text and task.label")
    kind = Value("float64" if names is None else "int64")  # also where all are hidden
    return Dataset.from_dict(kept).cast_column("label", kind), len(table) - len(kept["id"])


def _classes(task: Task, table: Dataset, names: list[str]) -> dict[str, int]:
    """Return the class id of all that the label column may say: a name, or a number that is an id for certain."""
    feature = table.features.get(task.label)
    if isinstance(feature, ClassLabel):
        if set(feature.names) <= set(names):
            return {str(number): names.index(name) for number, name in enumerate(feature.names)}
        if len(feature.names) != len(names) or set(feature.names) & set(names):
            raise UserError(
                f"column {task.label} has the classes {_list(feature.names)}, task.labels has {_list(names)}; "
                "name all of them, or rename every one in their order"
            )
        return {str(number): number for number in range(len(names))}
    classes = {str(_text(name)): number for number, name in enumerate(names)}
    if task.labels is not None and not any(NUMBER.fullmatch(name) for name in names):
        classes |= {str(number): number for number in range(len(names))}
    return classes


def _said(task: Task, table: Dataset) -> list[str | None]:
    """Return the labels as text, None where one is missing, or hidden by -1 as in the Hub's test sets."""
    if task.label not in table.column_names:
        return [None] * len(table)
    hides = task.suite == "glue" or isinstance(table.features[task.label], ClassLabel)
    labels = [_text(label) for label in table[task.label]]
    return [None if hides and label == "-1" else label for label in labels]


def _text(label: Any) -> str | None:
    """Return a label as text, None where it is missing; 1.0, which pandas makes of 1 beside an empty cell, is 1."""
    if label is None or (isinstance(label, float) and math.isnan(label)):
        return None
    return re.sub(r"^(-?[0-9]+)\.0+$", r"\1", str(label).strip()) or None


def _number(label: str) -> float:
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"label {label} is no number; leave it empty where there is none, or try task=classification")
    return value


def _sorted(names: set[str]) -> list[str]:
    """Sort numbers in their own order, so that 2 comes before 10, and before words."""
    return sorted(names, key=lambda name: (0, float(name), name) if NUMBER.fullmatch(name) else (1, 0.0, name))


def _list(names: Sequence[str] | set[str], comma: str = ", ") -> str:
    return comma.join(_sorted(names) if isinstance(names, set) else names)


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
