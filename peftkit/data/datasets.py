"""Turn a task into labelled rows, with a count of everything that was left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, load_dataset

from peftkit.config import FILES, TaskConfig, UserError
from peftkit.config.source import Source, fingerprint, hub_answers
from peftkit.data.conversations import conversation_examples, split_by_instruction
from peftkit.data.files import parse_list, read_file
from peftkit.data.labels import label_feature, label_names, label_parser, raw_labels, require_columns
from peftkit.data.passages import read_corpus, split_passages
from peftkit.data.preference_pairs import parse_preference, split_by_prompt

GLUE = "nyu-mll/glue"
SEARCH_SPLIT = "search_holdout"  # the split of training rows on which trials are scored
SUBSET_SEED = 0  # the rows of max_train_samples are the same for every seed of a comparison


@dataclass(frozen=True)
class TaskDataset:
    """The rows of a task: `splits` hold the columns id, one or two texts, and label.

    A label is an int that counts into `label_names` (classification), a list of them (one a word of the text, which
    then is a list of words), a float (regression), {text, answer_start} (question answering) or a text; it is None
    where it is hidden, which no training row's is. `dropped` counts each split's rows without text, and the training
    split's without label.
    """

    splits: dict[str, Dataset]
    label_names: list[str] | None
    source: Source
    dropped: dict[str, int] = field(default_factory=dict)


def load_task_dataset(
    task: TaskConfig, data_root: str | None, source: str, trained_on: str | None = None, set_apart: int = 0
) -> TaskDataset:
    """Read the splits that the task names, drop and count the rows without text or label, map labels to ids.

    A tenth of train becomes the validation split of own data that has no other split. An evaluation of a run that
    trained on other data than this (`trained_on` is its revision) takes all of it. With `set_apart`, the splits are the
    training rows but for so many, and SEARCH_SPLIT, those.

    Raises:
        UserError: a file cannot be read, a column or a split is missing, or a label is none of the task's.
    """
    if task.kind == "language_modeling":
        return _texts(task, data_root, trained_on, set_apart)
    tables, origin = _read(task, data_root, source)
    tables = {name: _numbered(table) for name, table in tables.items()}
    train, validation = task.splits["train"], list(task.splits["validation"])
    # an evaluation reads no training rows, but their labels say which classes there are
    source_of_names = train or "train"
    is_alone = task.suite == "own" and list(tables) == [source_of_names] and validation == ["validation"]
    wanted = [name for name in (train, *validation) if name]
    for name in wanted if not is_alone else ():
        if name not in tables:
            raise UserError(_missing_split(task, name, list(tables), origin.name))
    if task.kind == "instructions":
        tables = {name: tables[name] for name in ([source_of_names] if is_alone else wanted)}
        return _instructions(task, tables, origin, is_alone, trained_on, set_apart)
    names = label_names(task, {name: tables[name] for name in (source_of_names, *validation) if name in tables})
    if is_alone and train is None and origin.revision != trained_on:
        tables = {"validation": tables[source_of_names]}
    elif is_alone:  # after the names: a rare class may lie in the tenth alone
        tables = _carve(task, tables[source_of_names], source_of_names, origin.name)
    splits: dict[str, Dataset] = {}
    dropped: dict[str, int] = {}
    for name in [str(train)] if set_apart else wanted:
        rows, lost = _clean(task, tables[name], names, name)
        if set_apart:
            return TaskDataset(_apart(task, rows, name, set_apart), names, origin, {name: lost})
        splits[name] = _subset(rows, task.max_train_samples if name == train else task.max_eval_samples)
        dropped[name] = lost
    return TaskDataset(splits, names, origin, dropped)


def _instructions(
    task: TaskConfig, tables: dict[str, Dataset], origin: Source, is_alone: bool, trained_on: str | None, set_apart: int
) -> TaskDataset:
    """Return examples of conversations; of a table that is alone, a tenth of its instructions is validation."""
    splits: dict[str, Dataset] = {}
    dropped: dict[str, int] = {}
    for name, table in tables.items():
        splits[name], dropped[name] = conversation_examples(task, table)
    train, (first, *_) = task.splits["train"], task.splits["validation"]
    if is_alone and train is None and origin.revision != trained_on:
        splits, dropped = {first: splits.popitem()[1]}, {first: dropped.popitem()[1]}
    elif is_alone:
        ((name, rows),) = splits.items()
        splits = dict(zip((name, first), split_off(task, rows, 0.1), strict=True))
    if set_apart:
        return TaskDataset(_apart(task, splits[str(train)], str(train), set_apart), None, origin, dropped)
    wanted = [name for name in (train, *task.splits["validation"]) if name]
    limits = {name: task.max_train_samples if name == train else task.max_eval_samples for name in wanted}
    return TaskDataset({name: _subset(splits[name], limits[name]) for name in wanted}, None, origin, dropped)


def _texts(task: TaskConfig, data_root: str | None, trained_on: str | None, set_apart: int) -> TaskDataset:
    """Read a corpus: documents to train on, and passages of those that are held out, or set apart."""
    documents, held_out, origin = read_corpus(task, data_root, trained_on)
    train, (validation,) = str(task.splits["train"]), task.splits["validation"]
    if set_apart:
        splits = _apart(task, documents, train, set_apart)
        return TaskDataset({**splits, SEARCH_SPLIT: split_passages(splits[SEARCH_SPLIT], task)}, None, origin)
    splits = {validation: _subset(held_out, task.max_eval_samples)}
    if task.splits["train"] is not None:
        splits[train] = _subset(documents, task.max_train_samples)
    return TaskDataset(splits, None, origin, dict.fromkeys(splits, 0))


def evaluation_tables(task: TaskConfig, data_root: str | None, source: str) -> tuple[dict[str, Dataset], Source]:
    """Return the splits of a task that nothing trains on, as they are, and where they come from."""
    tables, origin = _read(task, data_root, source)
    held_out = {name: table for name, table in tables.items() if name != task.splits["train"]}
    return held_out or tables, origin


def _read(task: TaskConfig, data_root: str | None, source: str) -> tuple[dict[str, Dataset], Source]:
    if data_root is not None:
        folder = Path(data_root) / task.name
        return _read_folder(folder), Source("folder", str(folder), fingerprint(folder, FILES))
    path = Path(task.dataset)
    stands_for = _stands_for(path)
    if task.kind == "instructions" and (path / "chat" / "train.parquet").is_file():
        path = path / "chat"  # of what job=generate made, and keeps beside other things
    if path.is_dir():
        return _read_folder(path), Source("folder", str(path), fingerprint(path, FILES), stands_for)
    if path.is_file():
        return {"train": read_file(path)}, Source("folder", str(path), fingerprint(path), stands_for)
    if source != "offline" and hub_answers():
        task = replace(task, revision=_commit(task))
        return _from_hub(task), Source("hub", task.dataset, task.revision)
    if source != "offline" and (cached := _from_cache(task)) is not None:
        return cached, Source("cache", task.dataset, task.revision)
    if source == "hub" or task.suite != "glue" or task.dataset != GLUE:
        raise UserError(
            f"{task.dataset} is no file or folder here, the Hub does not answer, and it is not in the Hub's cache; "
            "try again with a network, with data_root=FOLDER, or with a GLUE task as it is"
        )
    from peftkit.data.miniglue import miniglue

    tables = {name: Dataset.from_list(rows) for name, rows in miniglue(task.name).items()}
    return tables, Source("offline", "miniglue", substituted_for=task.dataset)


def _stands_for(path: Path) -> str | None:
    """Return what generated tasks stand in for: those of a model in whose place an offline writer wrote.

    `path` is the folder that job=generate left, one in it, or a file there.
    """
    for folder in (path, *path.absolute().parents[:2]):
        if (folder / "result.json").is_file() and (folder / "kept.jsonl").is_file():
            writer = json.loads((folder / "result.json").read_text())["audit"]["sources"]["model"]
            return f"tasks by {writer['substituted_for']}" if writer.get("substituted_for") else None
    return None


def _read_folder(folder: Path) -> dict[str, Dataset]:
    files: dict[str, Path] = {}
    for file in sorted(folder.glob("*")):
        if file.suffix in FILES and (first := files.setdefault(file.stem, file)) is not file:
            raise UserError(
                f"{folder} holds two files of the split {file.stem}, {first.name} and {file.name}; move one of them"
            )
    if not files:
        raise UserError(f"{folder} holds no csv, tsv, jsonl or parquet files; name a folder with train.* in it")
    return {name: read_file(file) for name, file in files.items()}


def _from_hub(task: TaskConfig) -> dict[str, Dataset]:
    loaded = load_dataset(task.dataset, task.subset, revision=task.revision)
    assert isinstance(loaded, DatasetDict)
    return {str(name): table for name, table in loaded.items()}


def _commit(task: TaskConfig) -> str:
    """Return the commit that the revision means today."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().dataset_info(task.dataset, revision=task.revision, timeout=10).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"the Hub has no dataset {task.dataset} at revision {task.revision}; look at task.dataset and task.revision"
        ) from error


def _from_cache(task: TaskConfig) -> dict[str, Dataset] | None:
    """Read the dataset from the Hub's cache with no network; None where it is not there."""
    try:
        return _from_hub(task)  # the libraries are told by now to stay off the network
    except (OSError, ValueError):  # what datasets raises for a dataset that is not cached
        return None


def _numbered(table: Dataset) -> Dataset:
    """Name each row as its data does, by idx or id, else by its number: before any is set apart or dropped."""
    if "idx" in table.column_names:
        return table
    ids = table["id"] if "id" in table.column_names else range(len(table))
    return table.add_column("idx", list(ids))


def _carve(task: TaskConfig, table: Dataset, train: str, origin: str) -> dict[str, Dataset]:
    if len(table) < 2:
        raise UserError(f"{origin}: one row cannot be both train and validation; add rows")
    rest, held_out = split_off(task, table, 0.1)
    return {train: rest, "validation": held_out}


def split_off(task: TaskConfig, rows: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Split a share of rows off, the same for every seed; those of one prompt, or instruction, stay together."""
    if task.kind == "instructions":
        return split_by_instruction(rows, share, SUBSET_SEED)
    if task.kind == "preferences":
        require_columns(task, rows, [task.text[0]])
        return split_by_prompt(rows, task.text[0], share, SUBSET_SEED)
    parts = rows.train_test_split(test_size=share, seed=SUBSET_SEED)
    return parts["train"], parts["test"]


def _missing_split(task: TaskConfig, name: str, there: list[str], origin: str) -> str:
    """Return the sentence about it, with a guess at the split that is meant: dev before test."""
    train = task.splits["train"]
    key, starts = ("train", "train") if name == train else ("validation", ("val", "dev"))
    others = [other for other in there if name == train or other != train]
    best = min(others, key=lambda other: (not other.startswith(starts), other), default="...")
    example = best if key == "train" else f"[{best}]"
    return f"{origin} has the splits {', '.join(there)}, not {name}; say task.splits.{key}={example}"


def _clean(task: TaskConfig, table: Dataset, names: list[str] | None, split: str) -> tuple[Dataset, int]:
    """Keep the rows with text, and of the training rows those with a label; return them and how many are lost."""
    texts = list(task.text)
    is_train = split == task.splits["train"] and task.label is not None
    require_columns(task, table, texts + ([str(task.label)] if is_train else []))
    columns, is_pair = [table[column] for column in texts], task.kind == "preferences"
    read = label_parser(task, table, names, split)
    kept: dict[str, list[Any]] = {"id": [], **{column: [] for column in texts}, "label": []}
    for number, *values, label in zip(table["idx"], *columns, raw_labels(task, table), strict=True):
        values = parse_preference(values, split) if is_pair else [parse_text(task, value) for value in values]
        if is_pair and values[1] == values[2]:
            continue  # nothing is preferred
        if not all(values) or (is_train and label is None):
            continue
        kept["id"].append(number)
        for column, value in zip(texts, values, strict=True):
            kept[column].append(value)
        kept["label"].append(None if label is None else read(label, values))
    if not kept["id"]:
        raise UserError(f"no row of task={task.name} has both text and label; look at task.text and task.label")
    rows = Dataset.from_dict(kept)
    return rows.cast(Features({**rows.features, "label": label_feature(task)})), len(table) - len(kept["id"])


def parse_text(task: TaskConfig, value: Any) -> Any:
    """Return a cell's text, or its words where words are tagged; empty where there is none."""
    if task.kind == "token_classification":
        return [str(word) for word in parse_list(value)]
    return "" if value is None or not str(value).strip() else str(value)


def _apart(task: TaskConfig, rows: Dataset, train: str, number: int) -> dict[str, Dataset]:
    """Split so many rows off, beyond the limit where there are enough; what trains is what `_subset` would take."""
    room = len(rows) - number
    if room < number / 4:
        raise UserError(
            f"search.samples={number} of {len(rows)} training rows leaves too few to train on; "
            f"say search.samples={len(rows) // 4}"
        )
    kept = min(task.max_train_samples or room, room)
    if task.kind == "preferences":
        rest, apart = split_by_prompt(rows, task.text[0], number, SUBSET_SEED)
        return {train: _subset(rest, kept), SEARCH_SPLIT: apart}
    shuffled = rows.shuffle(seed=SUBSET_SEED)
    parts: dict[str, Sequence[int]] = {train: range(kept), SEARCH_SPLIT: range(kept, kept + number)}
    if "group" in rows.column_names:
        rest, apart = _whole_groups(shuffled["group"], number)
        if len(rest) < number / 4:
            raise UserError(
                f"search.samples={number} of {len(rows)} training rows leaves {len(rest)} of other instructions to train "
                f"on; say search.samples={max(1, number // 4)}, or add rows with other instructions"
            )
        parts = {train: rest[:kept], SEARCH_SPLIT: apart}
    return {name: shuffled.select(part).flatten_indices() for name, part in parts.items()}


def _whole_groups(groups: Sequence[int], number: int) -> tuple[list[int], list[int]]:
    """Return the places of rows to train on, and so many others that share no instruction (group) with them.

    Groups are set apart whole as long as they fit; of one more, the smallest, the rows that are too many are lost.
    """
    places: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    apart: list[int] = []
    chosen: set[int] = set()
    for group, those in places.items():
        if len(apart) + len(those) <= number:
            apart += those
            chosen.add(group)
    if len(apart) < number:
        smallest = min(places.keys() - chosen, key=lambda group: (len(places[group]), group))
        apart += places[smallest][: number - len(apart)]
        chosen.add(smallest)
    return [place for place, group in enumerate(groups) if group not in chosen], sorted(apart)


def _subset(rows: Dataset, limit: int | None) -> Dataset:
    if limit is None or limit >= len(rows):
        return rows
    return rows.shuffle(seed=SUBSET_SEED).select(range(limit)).flatten_indices()
