"""Sources of the tables of a task: files, folders, the Hub, its cache, or the offline substitute of GLUE."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset

from peftkit.config import FILES, TaskConfig, UserError, kind_of
from peftkit.config.source import Source, fingerprint, hub_answers
from peftkit.data.files import read_file

GLUE = "nyu-mll/glue"


def evaluation_tables(task: TaskConfig, data_root: str | None, source: str) -> tuple[dict[str, Dataset], Source]:
    """Return the splits of a task without its training split, unchanged, and their source."""
    tables, origin = read_tables(task, data_root, source)
    held_out = {name: table for name, table in tables.items() if name != task.splits["train"]}
    return held_out or tables, origin


def read_tables(task: TaskConfig, data_root: str | None, source: str) -> tuple[dict[str, Dataset], Source]:
    """Return the tables of a task by split, and their source: `data_root`, a path, the Hub, its cache, or offline."""
    if data_root is not None:
        folder = Path(data_root) / task.name
        return _read_folder(folder), Source("folder", str(folder), fingerprint(folder, FILES))
    path = Path(task.dataset)
    replaces = _replaces(path)
    if kind_of(task).generators and (path / "chat" / "train.parquet").is_file():
        path = path / "chat"  # a folder of job=generate holds other files too
    if path.is_dir():
        return _read_folder(path), Source("folder", str(path), fingerprint(path, FILES), replaces)
    if path.is_file():
        return {"train": read_file(path)}, Source("folder", str(path), fingerprint(path), replaces)
    if source != "offline" and hub_answers():
        task = replace(task, revision=_commit(task))
        return _from_hub(task), Source("hub", task.dataset, task.revision)
    if source != "offline" and (cached := _from_cache(task)) is not None:
        return cached, Source("cache", task.dataset, task.revision)
    if source == "hub" or task.suite != "glue" or task.dataset != GLUE:
        raise UserError(
            f"{task.dataset} is not a file or folder, the Hub does not answer, and its cache lacks it; "
            "connect to a network, set data_root=FOLDER, or use an unchanged GLUE task"
        )
    from peftkit.data.miniglue import miniglue

    tables = {name: Dataset.from_list(rows) for name, rows in miniglue(task.name).items()}
    return tables, Source("offline", "miniglue", substituted_for=task.dataset)


def _replaces(path: Path) -> str | None:
    """Return what generated data replaces, where an offline generator replaced a model; else None.

    `path` is a folder of job=generate, a folder in it, or a file there.
    """
    for folder in (path, *path.absolute().parents[:2]):
        if (folder / "result.json").is_file() and (folder / "kept.jsonl").is_file():
            generator = json.loads((folder / "result.json").read_text(encoding="utf-8"))["audit"]["sources"]["model"]
            return f"tasks by {generator['substituted_for']}" if generator.get("substituted_for") else None
    return None


def _read_folder(folder: Path) -> dict[str, Dataset]:
    files: dict[str, Path] = {}
    for file in sorted(folder.glob("*")):
        if file.suffix in FILES and (first := files.setdefault(file.stem, file)) is not file:
            raise UserError(
                f"{folder} has two files for the split {file.stem}, {first.name} and {file.name}; remove one of them"
            )
    if not files:
        raise UserError(f"{folder} has no csv, tsv, jsonl or parquet files; use a folder with train.*")
    return {name: read_file(file) for name, file in files.items()}


def _from_hub(task: TaskConfig) -> dict[str, Dataset]:
    loaded = load_dataset(task.dataset, task.subset, revision=task.revision)
    assert isinstance(loaded, DatasetDict)
    return {str(name): table for name, table in loaded.items()}


def _commit(task: TaskConfig) -> str:
    """Return the commit of the revision."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().dataset_info(task.dataset, revision=task.revision, timeout=10).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"the Hub has no dataset {task.dataset} at revision {task.revision}; check task.dataset and task.revision"
        ) from error


def _from_cache(task: TaskConfig) -> dict[str, Dataset] | None:
    """Read the dataset from the Hub's cache without network; None where it is not cached."""
    try:
        return _from_hub(task)  # the libraries are in offline mode by now
    except (OSError, ValueError):  # what datasets raises for a dataset that is not cached
        return None
