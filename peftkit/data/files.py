"""Reading of a file as a table, without conversion of its text."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset

from peftkit.config import FILES, UserError
from peftkit.data.streaming import parse_json_lines, read_cells, reading

INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # integers that int64 reproduces character by character
# a list of words or numbers in a cell, as pandas or json write it; numpy arrays have no commas
WORDS = re.compile(r"\[(\s*['\"].*['\"]\s*)?\]", re.DOTALL)
NUMBERS = re.compile(r"\[[-0-9.,\s]*\]")
ITEM = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?<!\d)-?(?:0|[1-9][0-9]*)(?!\d)""")


def read_file(path: Path) -> Dataset:
    """Read one csv, tsv, jsonl, parquet, CoNLL or SQuAD (json) file, without changing its text.

    An empty cell of csv and tsv is None. A CoNLL file has one row per sentence with the columns tokens, tags and,
    between them, column_2 ...; a CoNLL-U file has the columns of universal_dependencies on the Hub.

    Raises:
        UserError: the file has another ending, cannot be read, or has no rows.
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
    if not WORDS.fullmatch(text) and not (may_be_numbers and NUMBERS.fullmatch(text)):
        return text.split()
    if (items := _json_list(text)) is not None:
        return items
    try:
        if re.sub(r"[\s,]", "", ITEM.sub("", text)) != "[]":
            raise ValueError(text)
        return [ast.literal_eval(item) for item in ITEM.findall(text)]
    except (SyntaxError, ValueError) as error:  # text beside the items, or an invalid escape
        raise UserError(f"{text:.60} is not a list; write ['a', 'b'], or words separated by spaces") from error


def _json_list(text: str) -> list[Any] | None:
    """Return a list in JSON, whose escapes of characters beyond 16 bits differ from Python's; None for other text."""
    try:
        return list(json.loads(text))
    except ValueError:
        return None


def _csv_columns(path: Path) -> dict[str, list]:
    """Read cells as they are written: pandas would read None, NA and nan as empty, and 007 as 7."""
    header, *rows = read_cells(path)
    names = [name or f"Unnamed: {number}" for number, name in enumerate(header)]  # pandas' name for an index
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise UserError(f"{path}: there are two columns {twice[0]}; rename one")
    return {name: _integers([row[number] for row in rows]) for number, name in enumerate(names)}


def _integers(cells: list[str]) -> list[Any]:
    """Return integers where every cell that is not empty is one, else the texts; None for an empty cell."""
    parse = int if all(INTEGER.fullmatch(cell) for cell in cells if cell) else str
    return [parse(cell) if cell else None for cell in cells]


def _json_columns(path: Path) -> dict[str, list]:
    """Read one object per line, a list of objects, or SQuAD's nested articles."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json" and (squad := _squad_columns(text)) is not None:
        return squad
    is_list = text.lstrip().startswith("[")
    rows = json.loads(text) if is_list else [row for _, row in parse_json_lines(path, text.split("\n"))]
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f'{path}: a row is not an object; write one object per line, as {{"text": "a fine film"}}')
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _squad_columns(text: str) -> dict[str, list] | None:
    """Return id, title, context, question and answers of SQuAD's own files; None for other JSON."""
    try:
        articles = json.loads(text)["data"]
        rows = [
            (entry["id"], article.get("title"), paragraph["context"], entry["question"], entry.get("answers"))
            for article in articles
            for paragraph in article["paragraphs"]
            for entry in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError):
        return None
    ids, titles, contexts, questions, answers = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [], [])
    labels = [
        None if spans is None else {key: [span[key] for span in spans] for key in ("text", "answer_start")}
        for spans in answers  # a test file has none: hidden answers, which differ from unanswerable questions
    ]
    return {"id": ids, "title": titles, "context": contexts, "question": questions, "answers": labels}


CONLLU = ("id", "tokens", "lemmas", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")


def _conll_columns(path: Path) -> dict[str, list]:
    """Read one word per line, columns separated by spaces (CoNLL-2003) or tabs (CoNLL-U); blank lines end sentences."""
    is_universal = path.suffix == ".conllu"
    width = len(CONLLU) if is_universal else 0
    sentences: list[list[list[str]]] = [[]]
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            sentences.append([])
            continue
        cells = line.rstrip("\r").split("\t") if is_universal or "\t" in line else line.split()
        if (is_universal and (line.startswith("#") or not cells[0].isdigit())) or cells[0] == "-DOCSTART-":
            continue  # a comment, a multiword token, or an empty node
        width = width or len(cells)
        if len(cells) != width or width < 2:
            raise UserError(f"{path}: line {number} has {len(cells)} columns, not {max(width, 2)}; correct it")
        sentences[-1].append(cells)
    columns = [list(zip(*sentence, strict=True)) for sentence in sentences if sentence]
    names = CONLLU if is_universal else ("tokens", *(f"column_{index}" for index in range(2, width)), "tags")
    return {name: [list(each[index]) for each in columns] for index, name in enumerate(names) if name != "id"}
