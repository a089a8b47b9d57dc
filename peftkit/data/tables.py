"""Tables of a task: from files and folders, the Hub, its cache, or the offline substitute of GLUE."""

import ast
import json
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, load_dataset

from peftkit.config import FILES, TaskConfig, UserError, error_summary, kind_of
from peftkit.config.source import Source, fingerprint, hub_is_reachable
from peftkit.data.streaming import parse_json_lines, read_cells, reading

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
    path = Path(task.dataset) if data_root is None else Path(data_root) / task.name
    if kind_of(task).generators and (path / "chat" / "train.parquet").is_file():
        path = path / "chat"  # a folder of job=generate holds other files too
    if data_root is not None or path.exists():
        tables = {"train": read_file(path)} if path.is_file() else _read_folder(path)
        return tables, Source("folder", str(path), fingerprint(path, FILES), _replaces(path))
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
    from peftkit.data.miniglue import miniglue

    origin = Source("offline", "miniglue", substituted_for=task.dataset)
    return {name: Dataset.from_list(rows) for name, rows in miniglue(task.name).items()}, origin


def _replaces(path: Path) -> str | None:
    """Return what generated data replaces, where an offline generator replaced a model; else None.

    `path` is a folder of job=generate, or a folder or file in it.
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
    if path.suffix not in FILES:
        raise UserError(
            f"{path}: expected csv, tsv, jsonl, parquet, conll or conllu; convert the file, or use another one"
        )
    with reading(path):
        if path.suffix == ".parquet":
            table = Dataset(pq.ParquetFile(path).read())
        else:
            readers = {".json": _json_columns, ".conl": _conll_columns}
            table = Dataset.from_dict(readers.get(path.suffix[:5], _csv_columns)(path))
    if len(table) == 0:
        raise UserError(f"{path}: the file has no rows; add some, or use another file")
    return table


def parse_list(cell: Any, may_be_numbers: bool = False) -> list[Any]:
    """Return the items of a list, of a list written as text, or the words of a text; an empty list for None.

    Raises:
        UserError: the text of a list is incomplete.
    """
    if isinstance(cell, list):
        return cell
    text = str("" if cell is None else cell).strip()
    if not WORD_LIST.fullmatch(text) and not (may_be_numbers and NUMBER_LIST.fullmatch(text)):
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
    header, *rows = read_cells(path)
    names = [name or f"Unnamed: {number}" for number, name in enumerate(header)]  # pandas' name for an index
    if duplicates := [name for number, name in enumerate(names) if name in names[:number]]:
        raise UserError(f"{path}: there are two columns {duplicates[0]}; rename one")
    return {name: _integers([row[number] for row in rows]) for number, name in enumerate(names)}


def _integers(cells: list[str]) -> list[Any]:
    """Return integers where every cell that is not empty is one, else the texts; None for an empty cell."""
    parse = int if all(INTEGER.fullmatch(cell) for cell in cells if cell) else str
    return [parse(cell) if cell else None for cell in cells]


def _json_columns(path: Path) -> dict[str, list]:
    """Read one object per line, a list of objects, or SQuAD's nested articles."""
    text = path.read_text(encoding="utf-8-sig")
    rows = _squad_rows(text) if path.suffix == ".json" else None
    if rows is None:
        is_list = text.lstrip().startswith("[")
        rows = json.loads(text) if is_list else [row for _, row in parse_json_lines(path, text.split("\n"))]
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f'{path}: a row is not an object; write one object per line, such as {{"text": "a fine film"}}')
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _squad_rows(text: str) -> list[dict[str, Any]] | None:
    """Return id, title, context, question and answers of SQuAD's own files; None for other JSON."""
    with suppress(ValueError, KeyError, TypeError):
        return [
            {
                "id": entry["id"],
                "title": article.get("title"),
                "context": paragraph["context"],
                "question": entry["question"],
                "answers": None  # of a test file: hidden, and not an unanswerable question
                if entry.get("answers") is None
                else {key: [span[key] for span in entry["answers"]] for key in ("text", "answer_start")},
            }
            for article in json.loads(text)["data"]
            for paragraph in article["paragraphs"]
            for entry in paragraph["qas"]
        ]
    return None


CONLLU_COLUMNS = ("id", "tokens", "lemmas", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")


def _conll_columns(path: Path) -> dict[str, list]:
    """Read one word per line, columns separated by spaces (CoNLL-2003) or tabs (CoNLL-U); blank lines end sentences."""
    is_universal = path.suffix == ".conllu"
    column_count = len(CONLLU_COLUMNS) if is_universal else 0
    sentences: list[list[list[str]]] = [[]]
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        cells = line.rstrip("\r").split("\t") if is_universal or "\t" in line else line.split()
        if not line.strip():
            sentences.append([])
        # in CoNLL-U, lines without a number are comments, multiword tokens or empty nodes
        elif cells[0].isdigit() if is_universal else cells[0] != "-DOCSTART-":
            column_count = column_count or len(cells)
            if len(cells) != column_count or column_count < 2:
                raise UserError(
                    f"{path}: line {number} has {len(cells)} columns, not {max(column_count, 2)}; correct it"
                )
            sentences[-1].append(cells)
    columns = [list(zip(*sentence, strict=True)) for sentence in sentences if sentence]
    names = (
        CONLLU_COLUMNS if is_universal else ("tokens", *(f"column_{index}" for index in range(2, column_count)), "tags")
    )
    return {name: [list(each[index]) for each in columns] for index, name in enumerate(names) if name != "id"}
