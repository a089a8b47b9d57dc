"""Turn one file into a table, with nothing in it read as something else."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset

from peftkit.schema import FILES, UserError

INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # what an int64 gives back letter by letter


def read_file(path: Path) -> Dataset:
    """Read one csv, tsv, jsonl or parquet file; an empty cell of csv and tsv is None, all other text stays as it is.

    Raises:
        UserError: the file has another ending, cannot be read, or holds no rows.
    """
    if path.suffix not in FILES:
        raise UserError(f"{path} is none of csv, tsv, jsonl and parquet; convert it, or name another file")
    try:
        if path.suffix == ".parquet":
            table = Dataset(pq.ParquetFile(path).read())
        else:
            columns = _json_columns(path) if path.suffix.startswith(".json") else _csv_columns(path)
            table = Dataset.from_dict(columns)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: it is not written in UTF-8; convert it: iconv -f latin1 -t utf-8 {path} > new{path.suffix}"
        ) from error
    except (OSError, ValueError, TypeError, OverflowError, csv.Error) as error:  # what the four readers raise
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: {cause}; mend the file, or name another") from error
    if len(table) == 0:
        raise UserError(f"{path}: there are no rows in it; fill it, or name another file")
    return table


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
    """Read one object a line, or one list of objects."""
    text = path.read_text(encoding="utf-8-sig")
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
