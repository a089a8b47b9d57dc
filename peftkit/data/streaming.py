"""Streaming of a file of texts that may be larger than memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from peftkit.config import UserError

IDS = ("id", "idx")  # columns that name a row


class TextRecord(NamedTuple):
    """A row's own name, None where its file gives none, and its text, empty where it has none."""

    id: str | None
    text: str


def stream_texts(file: Path, column: str, key: str = "embed.column") -> Iterator[TextRecord]:
    """Read a file row by row, in constant memory: the lines of a .txt, `column` of a .csv, .tsv, .jsonl or .parquet.

    `key` is what a user names the column with.

    Raises:
        UserError: the file cannot be read, or has no such column.
    """
    readers = {".jsonl": _jsonl, ".parquet": _parquet, ".csv": _csv, ".tsv": _csv}
    with reading(file):
        yield from readers.get(file.suffix, _lines)(file, column, key)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Say of a file that cannot be read what is wrong with it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: it is not written in UTF-8; convert it: iconv -f latin1 -t utf-8 {file} > new{file.suffix}"
        ) from error
    except (OSError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"{file}: {str(error).splitlines()[0]}; mend the file, or name another") from error


def _lines(file: Path, column: str, key: str) -> Iterator[TextRecord]:
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        for line in lines:
            yield TextRecord(None, line.rstrip("\r\n"))


def _jsonl(file: Path, column: str, key: str) -> Iterator[TextRecord]:
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{file}: line {number} is no JSON ({error.msg}); write one object a line") from error
            names = list(row) if isinstance(row, dict) else []
            _need(f"{file}: line {number}", names, column, key)
            name = _id_column(names)
            yield TextRecord(None if name is None else _text(row[name]), _text(row[column]))


def _csv(file: Path, column: str, key: str) -> Iterator[TextRecord]:
    csv.field_size_limit(2**31 - 1)  # its 131,072 letters are too few for a long document
    is_tsv = file.suffix == ".tsv"
    with file.open(encoding="utf-8-sig", newline="") as opened:
        lines = (
            csv.reader(opened, delimiter="\t", quoting=csv.QUOTE_NONE) if is_tsv else csv.reader(opened, strict=True)
        )
        header = next(lines, [])
        _need(str(file), header, column, key)
        place, name = header.index(column), _id_column(header)
        for cells in lines:
            if cells and len(cells) != len(header):
                raise UserError(
                    f"{file}: line {lines.line_num} has {len(cells)} cells, but the header has {len(header)}; mend it"
                )
            if cells:
                yield TextRecord(None if name is None else cells[header.index(name)], cells[place])


def _parquet(file: Path, column: str, key: str) -> Iterator[TextRecord]:
    table = pq.ParquetFile(file)
    _need(str(file), table.schema_arrow.names, column, key)
    name = _id_column(table.schema_arrow.names)
    for batch in table.iter_batches(batch_size=256, columns=[column, *([] if name in (None, column) else [name])]):
        texts = batch[column].to_pylist()
        ids = [None] * len(texts) if name is None else batch[name].to_pylist()
        yield from (
            TextRecord(None if name is None else _text(row), _text(text)) for row, text in zip(ids, texts, strict=True)
        )


def _need(place: str, names: Sequence[str], column: str, key: str) -> None:
    if column not in names:
        raise UserError(f"{place} has no {column} ({', '.join(names) or 'there are none'}); set {key}=NAME")


def _id_column(names: Sequence[str]) -> str | None:
    return next((name for name in IDS if name in names), None)


def _text(value: object) -> str:
    return "" if value is None else str(value)
