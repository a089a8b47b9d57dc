"""Reading of one file as a table, without conversion of its text."""

from __future__ import annotations

import ast
import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset

from peftkit.config import FILES, UserError, error_summary

INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # what an int64 gives back letter by letter
# a list of words or of numbers as pandas or json write it into a cell; of an array, without the commas
WORDS = re.compile(r"\[(\s*['\"].*['\"]\s*)?\]", re.DOTALL)
NUMBERS = re.compile(r"\[[-0-9.,\s]*\]")
ITEM = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?<!\d)-?(?:0|[1-9][0-9]*)(?!\d)""")


def read_file(path: Path) -> Dataset:
    """Read one csv, tsv, jsonl, parquet, CoNLL or SQuAD (json) file, with nothing in its text changed.

    An empty cell of csv and tsv is None. A CoNLL file gives tokens and tags, one sentence a row, and what is between
    as column_2 ...; a CoNLL-U file the columns that universal_dependencies has on the Hub.

    Raises:
        UserError: the file has another ending, cannot be read, or holds no rows.
    """
    if path.suffix not in FILES:
        raise UserError(
            f"{path} is none of csv, tsv, jsonl, parquet, conll and conllu; convert it, or name another file"
        )
    try:
        if path.suffix == ".parquet":
            table = Dataset(pq.ParquetFile(path).read())
        else:
            readers = {".json": _json_columns, ".conl": _conll_columns}
            table = Dataset.from_dict(readers.get(path.suffix[:5], _csv_columns)(path))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: it is not written in UTF-8; convert it: iconv -f latin1 -t utf-8 {path} > new{path.suffix}"
        ) from error
    except (OSError, ValueError, TypeError, OverflowError, csv.Error) as error:  # what the four readers raise
        raise UserError(f"{path}: {error_summary(error)}; mend the file, or name another") from error
    if len(table) == 0:
        raise UserError(f"{path}: there are no rows in it; fill it, or name another file")
    return table


def parse_list(cell: Any, may_be_numbers: bool = False) -> list[Any]:
    """Return the items of a list, of a list that was written into a cell, or the words of a text; none for None.

    Raises:
        UserError: a list was cut as it was written.
    """
    if isinstance(cell, list):
        return cell
    text = str("" if cell is None else cell).strip()
    if not WORDS.fullmatch(text) and not (may_be_numbers and NUMBERS.fullmatch(text)):
        return text.split()
    if (found := _json_list(text)) is not None:
        return found
    try:
        if re.sub(r"[\s,]", "", ITEM.sub("", text)) != "[]":
            raise ValueError(text)
        return [ast.literal_eval(item) for item in ITEM.findall(text)]
    except (SyntaxError, ValueError) as error:  # more than items, or an escape that means nothing
        raise UserError(f"{text:.60} is no list; write ['a', 'b'], or words with spaces between") from error


def _json_list(text: str) -> list[Any] | None:
    """Return a list in json, which writes letters beyond 16 bits in another way than Python; None where it is none."""
    try:
        return list(json.loads(text))
    except ValueError:
        return None


def _csv_columns(path: Path) -> dict[str, list]:
    """Read cells as they are written: pandas would take None, NA and nan for empty, and 007 for 7.

    A quote in a tsv is a letter like any other: read as a quote, one at a cell's start would swallow lines.
    """
    csv.field_size_limit(2**31 - 1)  # its 131,072 letters are too few for a long document
    with path.open(encoding="utf-8-sig", newline="") as file:
        is_tsv = path.suffix == ".tsv"
        lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if is_tsv else csv.reader(file, strict=True)
        try:
            header = next(lines, [])
            rows = []
            for cells in lines:
                if cells and len(cells) != len(header):
                    raise csv.Error(f"it has {len(cells)} cells, but the header has {len(header)}")
                if cells:
                    rows.append(cells)
        except csv.Error as error:
            hint = "take the tab out of the text" if is_tsv else 'quote text as "a, b", and write "" for a quote in it'
            raise UserError(f"{path}: line {lines.line_num}: {error}; {hint}") from error
    names = [name or f"Unnamed: {number}" for number, name in enumerate(header)]  # as pandas calls an index
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise UserError(f"{path}: there are two columns {twice[0]}; rename one")
    return {name: _integers([row[number] for row in rows]) for number, name in enumerate(names)}


def _integers(cells: list[str]) -> list[Any]:
    """Return ints where every cell that is not empty is one, else the text; None for an empty cell."""
    of = int if all(INTEGER.fullmatch(cell) for cell in cells if cell) else str
    return [of(cell) if cell else None for cell in cells]


def _json_columns(path: Path) -> dict[str, list]:
    """Read one object a line, one list of objects, or SQuAD's nested articles."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json" and (squad := _squad_columns(text)) is not None:
        return squad
    is_list = text.lstrip().startswith("[")
    rows = json.loads(text) if is_list else []
    for number, line in enumerate([] if is_list else text.split("\n"), start=1):  # a raw U+2028 ends no line
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {number} is no JSON ({error.msg}); write one object a line") from error
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f'{path}: a row is no object; write one object a line, as {{"text": "a fine film"}}')
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _squad_columns(text: str) -> dict[str, list] | None:
    """Return id, title, context, question and answers of SQuAD's own files; None where it is another json."""
    try:
        articles = json.loads(text)["data"]
        rows = [
            (asked["id"], article.get("title"), paragraph["context"], asked["question"], asked.get("answers"))
            for article in articles
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError):
        return None
    ids, titles, contexts, questions, answers = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [], [])
    spans = [
        None if found is None else {key: [answer[key] for answer in found] for key in ("text", "answer_start")}
        for found in answers  # a test file has none: hidden, which is not the same as unanswerable
    ]
    return {"id": ids, "title": titles, "context": contexts, "question": questions, "answers": spans}


CONLLU = ("id", "tokens", "lemmas", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")


def _conll_columns(path: Path) -> dict[str, list]:
    """Read a word a line, its columns apart by spaces (CoNLL-2003) or tabs (CoNLL-U); an empty line ends a sentence."""
    is_universal = path.suffix == ".conllu"
    sentences: list[list[list[str]]] = [[]]
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            sentences.append([])
            continue
        cells = line.rstrip("\r").split("\t") if is_universal or "\t" in line else line.split()
        if (is_universal and (line.startswith("#") or not cells[0].isdigit())) or cells[0] == "-DOCSTART-":
            continue  # a comment, a word of several tokens, a word that was left out
        if len(cells) != (width := len(CONLLU) if is_universal else _width(sentences, cells)) or width < 2:
            raise UserError(f"{path}: line {number} has {len(cells)} columns, not {max(width, 2)}; mend it")
        sentences[-1].append(cells)
    rows = [list(zip(*sentence, strict=True)) for sentence in sentences if sentence]
    width = len(rows[0]) if rows else 2
    names = CONLLU if is_universal else ("tokens", *(f"column_{place}" for place in range(2, width)), "tags")
    return {name: [list(row[place]) for row in rows] for place, name in enumerate(names) if name != "id"}


def _width(sentences: list[list[list[str]]], cells: list[str]) -> int:
    """Return how many columns the file's first word has."""
    first = next((sentence[0] for sentence in sentences if sentence), cells)
    return len(first)
