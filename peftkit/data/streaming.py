"""Streaming of texts from files that may be larger than memory, and errors for files that cannot be read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from peftkit.config import UserError, error_summary

IDS = ("id", "idx")  # columns with the id of a row


class TextRecord(NamedTuple):
    """The id of a row, None where its file has none, and its text, which may be empty."""

    id: str | None
    text: str


def stream_texts(file: Path, column: str, key: str = "embed.column") -> Iterator[TextRecord]:
    """Read a file row by row, in constant memory: the lines of a .txt, `column` of a .csv, .tsv, .jsonl or .parquet.

    `key` is the configuration key that selects the column.

    Raises:
        UserError: the file cannot be read, or has no such column.
    """
    readers = {".jsonl": _jsonl, ".parquet": _parquet, ".csv": _csv, ".tsv": _csv}
    with reading(file):
        yield from readers.get(file.suffix, _lines)(file, column, key)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Raise a UserError with the cause where the file cannot be read."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: the file is not in UTF-8; convert it: iconv -f latin1 -t utf-8 {file} > new{file.suffix}"
        ) from error
    except (OSError, ValueError, TypeError, OverflowError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"{file}: {error_summary(error)}; correct the file, or use another one") from error


def read_cells(file: Path) -> Iterator[list[str]]:
    """Yield the header of a .csv or .tsv, and then the cells of each row, as they are written.

    A quote in a .tsv is an ordinary character: as a quotation mark, one at the start of a cell would swallow lines.

    Raises:
        UserError: a row differs from the header in length, or a quotation does not end.
    """
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters is too small for a long document
    is_tsv = file.suffix == ".tsv"
    with file.open(encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE) if is_tsv else csv.reader(text, strict=True)
        try:
            header = next(lines, [])
            yield header
            for cells in filter(None, lines):
                if len(cells) != len(header):
                    raise csv.Error(f"it has {len(cells)} cells, but the header has {len(header)}")
                yield cells
        except csv.Error as error:
            hint = "remove the tab from the text" if is_tsv else 'quote text as "a, b", and write "" for a quote in it'
            raise UserError(f"{file}: line {lines.line_num}: {error}; {hint}") from error


def parse_json_lines(file: Path, lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """Yield the number and the value of each line that is not blank; a raw U+2028 in a text ends no line."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{file}: line {number} is not JSON ({error.msg}); write one object per line"
                ) from error


def _lines(file: Path, column: str, key: str) -> Iterator[TextRecord]:
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        for line in lines:
            yield TextRecord(None, line.rstrip("\r\n"))


def _jsonl(file: Path, column: str, key: str) -> Iterator[TextRecord]:
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, row in parse_json_lines(file, lines):
            names = list(row) if isinstance(row, dict) else []
            _require(f"{file}: line {number}", names, column, key)
            name = _id_column(names)
            yield TextRecord(None if name is None else _text(row[name]), _text(row[column]))


def _csv(file: Path, column: str, key: str) -> Iterator[TextRecord]:
    rows = read_cells(file)
    header = next(rows)
    _require(str(file), header, column, key)
    index, name = header.index(column), _id_column(header)
    for cells in rows:
        yield TextRecord(None if name is None else cells[header.index(name)], cells[index])


def _parquet(file: Path, column: str, key: str) -> Iterator[TextRecord]:
    table = pq.ParquetFile(file)
    _require(str(file), table.schema_arrow.names, column, key)
    name = _id_column(table.schema_arrow.names)
    for batch in table.iter_batches(batch_size=256, columns=[column, *([] if name in (None, column) else [name])]):
        texts = batch[column].to_pylist()
        ids = [None] * len(texts) if name is None else batch[name].to_pylist()
        yield from (
            TextRecord(None if name is None else _text(row), _text(text)) for row, text in zip(ids, texts, strict=True)
        )


def _require(place: str, names: Sequence[str], column: str, key: str) -> None:
    if column not in names:
        raise UserError(f"{place} has no column {column} (columns: {', '.join(names) or 'none'}); set {key}=NAME")


def _id_column(names: Sequence[str]) -> str | None:
    return next((name for name in IDS if name in names), None)


def _text(value: object) -> str:
    return "" if value is None else str(value)
