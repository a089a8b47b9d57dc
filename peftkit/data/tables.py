"""Tables of a task: from files and folders, the Hub, its cache, or the offline substitute of GLUE."""

import ast
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, load_dataset, load_from_disk

from peftkit.config import FILES, TaskConfig, UserError, error_summary, kind_of, refusal
from peftkit.config.console import log
from peftkit.config.files import (
    check_names,
    check_whole,
    ending_of,
    parse_json_lines,
    read_cells,
    read_text,
    reading,
    saved_splits,
    split_files,
)
from peftkit.config.source import Source, fingerprint_of, hub_is_reachable
from peftkit.config.suggestions import listed
from peftkit.data.cells import plain_types, table_of, text_of
from peftkit.data.conll import read_conll
from peftkit.data.squad import squad_rows
from peftkit.data.streaming import open_parquet
from peftkit.data.turns import make_contents_uniform
from peftkit.paths import dataset_path, exists, walk

INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # integers that int64 reproduces character by character
# a list of words or numbers in a cell, as pandas or json write it; numpy arrays have no commas
WORD_LIST = re.compile(r"\[(\s*['\"].*['\"]\s*)?\]", re.DOTALL)
NUMBER_LIST = re.compile(r"\[[-0-9.,\s]*\]")
LIST_ITEM = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?<!\d)-?(?:0|[1-9][0-9]*)(?!\d)""")


def evaluation_tables(task: TaskConfig, data_root: str | None, source: str) -> tuple[dict[str, Dataset], Source]:
    """Return the splits of a task without its training split, unchanged, and their source."""
    tables, origin = read_tables(task, data_root, source)
    held_out = {name: table for name, table in tables.items() if name != task.splits["train"]}
    return held_out or tables, origin


def read_tables(task: TaskConfig, data_root: str | None, source: str) -> tuple[dict[str, Dataset], Source]:
    """Return the tables of a task by split, and their source: `data_root`, a path, the Hub, its cache, or offline."""
    path = local_path(task, data_root)
    if data_root is not None or path.exists():
        tables, files = _read_path(path, [task.splits["train"], *task.splits["validation"]])
        name = task.dataset if data_root is None and not exists(task.dataset) else str(path)  # of an example: no path
        return tables, Source("folder", name, fingerprint_of(files), _replaces(path))
    if source != "offline" and hub_is_reachable():
        task = replace(task, revision=dataset_commit(task))
        return _from_hub(task), Source("hub", task.dataset, task.revision)
    if source != "offline":  # the libraries are in offline mode by now
        with suppress(OSError, ValueError):  # what datasets raises for a dataset that is not cached
            return _from_hub(task), Source("cache", task.dataset, task.revision)
    if source == "hub" or task.suite != "glue" or task.dataset != "nyu-mll/glue":
        raise UserError(
            f"{task.dataset} is not a file or folder, the Hub is unreachable, and its cache does not contain it; "
            "connect to a network, set data_root=FOLDER, or use an unchanged GLUE task"
        )
    from peftkit.data.miniglue import miniglue, with_domains

    splits = miniglue(task.name)
    if task.shift is not None:
        splits = with_domains(splits, task.shift, task.name, len(task.labels or [None]))
    elif task.domain is not None:
        raise UserError(
            refusal(
                f"miniglue has no column {task.domain} without a shift", "task.shift=[covariate] task.domain=domain"
            )
        )
    origin = Source("offline", "miniglue", substituted_for=task.dataset)
    return {name: Dataset.from_list(rows) for name, rows in splits.items()}, origin


def local_path(task: TaskConfig, data_root: str | None) -> Path:
    """Return where a task's data is on this machine, if it is there."""
    path = dataset_path(task.dataset) if data_root is None else Path(data_root) / task.name
    # a folder of job=generate holds other files too
    is_generated = kind_of(task).generators and (path / "chat" / "train.parquet").is_file()
    return path / "chat" if is_generated else path


def file_versions(path: Path) -> list[tuple[str, int, int]]:
    """Return names, sizes and modification times of a file, or of all files below a folder."""
    files = [folder / name for folder, names, below in walk(path) for name in names if name not in below]
    found = []
    for file in files or [path]:
        with suppress(OSError):
            status = file.stat()
            found.append((str(file), status.st_size, status.st_mtime_ns))
    return found


def _replaces(path: Path) -> str | None:
    """Return what generated data replaces, where an offline generator replaced a model; else None.

    `path` is a folder of job=generate, or a folder or file in it.
    """
    for folder in (path, *path.absolute().parents[:2]):
        if (folder / "result.json").is_file() and (folder / "kept.jsonl").is_file():
            generator = json.loads((folder / "result.json").read_text(encoding="utf-8"))["audit"]["sources"]["model"]
            return f"tasks by {generator['substituted_for']}" if generator.get("substituted_for") else None
    return None


def _read_path(path: Path, named: list[str | None]) -> tuple[dict[str, Dataset], dict[str, Path]]:
    """Return the splits of a file or folder, and its files by their names in it; `named` are splits of the task."""
    if not path.is_dir():
        check_whole(path)
        table = read_file(path)
        if "split" in table.column_names and (named_by := {*map(str, table["split"][:])}) & {"train", "test"}:
            log(
                f"!! {path}: its column split has {listed(sorted(named_by))}, and is not used; write one file for each "
                "into a folder, train.csv and validation.csv"
            )
        return {"train": table}, {"": path}
    if (saved := saved_splits(path)) is not None:
        tables = {name: _read_saved(folder) for name, folder in saved.items()}
        found = (file for folder in saved.values() for file in folder.iterdir() if file.is_file())
        files = [file for file in found if not file.name.startswith("cache-")]  # those of `datasets`
    else:
        splits = split_files(path, [name for name in named if name])
        tables = {name: read_files(shards) for name, shards in splits.items()}
        files = [file for shards in splits.values() for file in shards]
    return tables, {file.relative_to(path).as_posix(): file for file in files}


def _read_saved(folder: Path) -> Dataset:
    with reading(folder):
        table = load_from_disk(str(folder), keep_in_memory=True)  # else `datasets` writes its cache into the folder
    assert isinstance(table, Dataset)
    return _not_empty(folder, table.with_format(None))


def _from_hub(task: TaskConfig) -> dict[str, Dataset]:
    """Read the dataset from the Hub, or without network from its cache."""
    loaded: Any = load_dataset(task.dataset, task.subset, revision=task.revision)
    return {str(name): table for name, table in loaded.items()}


def dataset_commit(task: TaskConfig) -> str:
    """Return the commit that the revision of the dataset points to today.

    Raises:
        UserError: the Hub is unreachable, or has no such dataset or revision.
    """
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(task.dataset, revision=task.revision, timeout=10).sha)
    except (OSError, ValueError) as error:  # which the errors of the Hub are, too
        raise UserError(
            f"{task.dataset} is not a file or folder, and not found on the Hub at revision {task.revision} "
            f"({error_summary(error)}); check task.dataset and task.revision, or use a file"
        ) from error


def read_file(path: Path) -> Dataset:
    """Read one csv, tsv, jsonl, parquet, CoNLL or SQuAD (json) file, without changing its text.

    An empty cell of csv and tsv is None. A CoNLL file has one row per sentence with the columns tokens, tags and,
    between them, column_2 ...; a CoNLL-U file has the columns of universal_dependencies on the Hub.

    Raises:
        UserError: the file has another extension, cannot be read, or has no rows.
    """
    return read_files([path])


def read_files(shards: Sequence[Path]) -> Dataset:
    """Read the files of one split, in their order, as `read_file` reads one.

    Raises:
        UserError: as `read_file`, or the files have different columns.
    """
    first, ending = shards[0], ending_of(shards[0])
    if ending not in FILES:
        raise UserError(
            f"{first}: expected csv, tsv, jsonl, parquet, conll or conllu; convert the file, or use another one"
        )
    parts: list[Any] = []
    for path in shards:
        with reading(path):
            parts.append(_read_part(path, ending))
            names, expected = (
                [*(part.column_names if ending == ".parquet" else part)] for part in (parts[-1], parts[0])
            )
            if set(names) != set(expected) and not ending.startswith(".json"):
                raise UserError(
                    f"{path} has the columns {listed(names)}, and {first.name} {listed(expected)}; use one set"
                )
    with reading(first):
        if ending == ".parquet":
            return _not_empty(first, Dataset(pa.concat_tables(parts, promote_options="permissive")))
        columns = {
            name: [cell for part in parts for cell in part.get(name) or [None] * len(next(iter(part.values()), []))]
            for name in dict.fromkeys(name for part in parts for name in part)
        }
        if ending in (".csv", ".tsv"):
            columns = {name: _integers(cells) for name, cells in columns.items()}
        elif ending.startswith(".json"):
            make_contents_uniform([cell for cells in columns.values() for cell in cells])
        return _not_empty(first, table_of(columns, str(first)))


def _read_part(path: Path, ending: str) -> Any:
    """Return a table of Arrow, or columns of cells; of csv and tsv as texts."""
    if ending == ".parquet":
        table = pq.ParquetFile(open_parquet(path)).read()
        check_names(path, table.column_names)
        return plain_types(table)
    readers = {".json": _json_columns, ".jsonl": _json_columns, ".conll": read_conll, ".conllu": read_conll}
    return readers.get(ending, _csv_columns)(path)


def _not_empty(path: Path, table: Dataset) -> Dataset:
    if len(table) == 0:
        raise UserError(f"{path}: the file has no rows; add some, or use another file")
    return table


def is_list_text(text: str, may_be_numbers: bool = True) -> bool:
    """Return whether a text is a list of texts, or of numbers, as Python, pandas or JSON write it."""
    return bool(WORD_LIST.fullmatch(text) or (may_be_numbers and NUMBER_LIST.fullmatch(text)))


def parse_list(cell: Any, may_be_numbers: bool = False) -> list[Any]:
    """Return the items of a list, of a list written as text, or the words of a text; an empty list for None.

    Raises:
        UserError: the text of a list is incomplete.
    """
    if isinstance(cell, list):
        return cell
    text = text_of(cell).strip()
    if not is_list_text(text, may_be_numbers):
        return text.split()
    with suppress(ValueError):  # JSON's escapes of characters beyond 16 bits differ from Python's
        return list(json.loads(text))
    try:
        if re.sub(r"[\s,]", "", LIST_ITEM.sub("", text)) != "[]":
            raise ValueError(text)
        return [ast.literal_eval(item) for item in LIST_ITEM.findall(text)]
    except (SyntaxError, ValueError) as error:  # text besides the items, or an invalid escape
        raise UserError(f"{text:.60} is not a list; write ['a', 'b'], or words separated by spaces") from error


def _csv_columns(path: Path) -> dict[str, list]:
    """Read cells unchanged: pandas would read None, NA and nan as empty, and 007 as 7."""
    names, *rows = read_cells(path)
    return {name: [row[number] for row in rows] for number, name in enumerate(names)}


def _integers(cells: list[str]) -> list[Any]:
    """Return integers where every cell that is not empty is one, else the texts; None for an empty cell."""
    parse = int if all(INTEGER.fullmatch(cell) for cell in cells if cell) else str
    return [parse(cell) if cell else None for cell in cells]


def _json_columns(path: Path) -> dict[str, list]:
    """Read one object per line, a list of objects, or SQuAD's nested articles."""
    text = read_text(path)
    rows = squad_rows(path, text) if ending_of(path) == ".json" else None
    if rows is None:
        is_list = text.lstrip().startswith("[")
        rows = json.loads(text) if is_list else [row for _, row in parse_json_lines(path, text.split("\n"))]
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f'{path}: a row is not an object; write one object per line, such as {{"text": "a fine film"}}')
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
