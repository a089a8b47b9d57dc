"""Streaming of texts, documents and their embeddings from and to files that may be larger than memory."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peftkit.config import TEXTS, UserError, error_summary
from peftkit.config.files import (
    check_names,
    ending_of,
    open_binary,
    open_text,
    parse_json_lines,
    read_cells,
    reading,
    visible_files,
)
from peftkit.config.suggestions import listed
from peftkit.data.cells import CellError, id_of, text_of
from peftkit.paths import atomic_write

IDS = ("id", "idx")  # columns with the id of a row
MAX_LINE = 1 << 20  # characters; a longer line or file is read in parts of this size
HELD_OUT_EVERY = 10  # one document, or file, of so many


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
        if (ending := ending_of(file)) in readers:
            yield from readers[ending](file, column, key)
        else:
            yield from (TextRecord(None, line) for line in _lines(file))


def stream_documents(
    corpus: str, column: str = "text", sample_by: str = "line", key: str = "extend.column", revision: str | None = None
) -> Iterator[tuple[str, bool]]:
    """Yield each document of a file, a folder or a Hub dataset, and whether it is held out, in constant memory.

    A document is a line of a .txt file, or, with sample_by="document", the whole file; of .jsonl, .parquet and the Hub
    it is the value of `column` in a row. Every tenth document is held out; of ten files or more, every tenth file, so
    that the terms of a file are in one part only. `key` is the configuration key that selects the column; `revision`
    is that of a Hub dataset.

    Raises:
        UserError: the corpus does not exist, or a file of it cannot be read.
    """
    files = corpus_files(corpus)
    by_file = files is not None and len(files) >= HELD_OUT_EVERY
    texts = (
        (index, text)
        for index, file in enumerate(files or [None], start=1)
        for text in (_file_texts(file, column, sample_by, key) if file else _hub_texts(corpus, column, key, revision))
        if text.strip()
    )
    for number, (index, text) in enumerate(texts, start=1):
        yield text, (index if by_file else number) % HELD_OUT_EVERY == 0


def corpus_files(corpus: str) -> list[Path] | None:
    """Return the files of a corpus in a fixed order; None where its name is neither a file nor a folder.

    Raises:
        UserError: the folder has no text files.
    """
    path = Path(corpus)
    if not path.is_dir():
        return [path] if path.is_file() else None
    files = visible_files(path, TEXTS, is_deep=True)
    if not files:
        raise UserError(f"{corpus} has no {', '.join(TEXTS)} files; use another folder, or a file")
    return files


def _lines(file: Path) -> Iterator[str]:
    with open_text(file, newline="\n") as lines:
        yield from (line.rstrip("\r\n") for line in lines)


def _jsonl(file: Path, column: str, key: str) -> Iterator[TextRecord]:
    for number, row in parse_json_lines(file, _lines(file)):
        place = f"{file}: line {number}"
        name = _id_column(place, list(row) if isinstance(row, dict) else [], column, key)
        yield _record(row, name, column, place)


def _csv(file: Path, column: str, key: str) -> Iterator[TextRecord]:
    rows = read_cells(file)
    header = next(rows)
    name = _id_column(str(file), header, column, key)
    for cells in rows:
        yield TextRecord(None if name is None else cells[header.index(name)], cells[header.index(column)])


def _parquet(file: Path, column: str, key: str) -> Iterator[TextRecord]:
    table = pq.ParquetFile(open_parquet(file))
    check_names(file, table.schema_arrow.names)
    name = _id_column(str(file), table.schema_arrow.names, column, key)
    batches = table.iter_batches(batch_size=256, columns=list({column, name or column}))
    for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
        yield _record(row, name, column, f"{file}: row {number}")


def open_parquet(file: Path) -> Any:
    """Return what pyarrow reads a parquet file from: its path, or its bytes where it is compressed once more."""
    with open_binary(file) as data:
        return io.BytesIO(data.read()) if file.suffix.lower() != ".parquet" else file


def _id_column(location: str, names: Sequence[str], column: str, key: str) -> str | None:
    """Return the column of the ids, None where there is none; raise UserError without the column of the texts."""
    if column not in names:
        raise UserError(f"{location} has no column {column} (columns: {listed(names) or 'none'}); set {key}=NAME")
    return next((name for name in IDS if name in names), None)


def _record(row: dict[str, Any], name: str | None, column: str, place: str) -> TextRecord:
    try:
        number = None if name is None else id_of(row[name])
        return TextRecord(None if name is None else str("" if number is None else number), text_of(row[column]))
    except CellError as error:
        raise UserError(f"{place}: column {column}: {error}") from None


def _file_texts(file: Path, column: str, sample_by: str, key: str) -> Iterator[str]:
    """Yield the texts of rows or lines, or a whole file; in parts of MAX_LINE where a line or file is longer."""
    if ending_of(file) != ".txt":
        yield from (row.text for row in stream_texts(file, column, key))
        return
    by_line = sample_by == "line"
    with reading(file), open_text(file, newline="\n" if by_line else None) as lines:
        while part := lines.readline(MAX_LINE) if by_line else lines.read(MAX_LINE):
            yield part.rstrip("\r\n") if by_line else part


def _hub_texts(name: str, column: str, key: str, revision: str | None) -> Iterator[str]:
    from datasets import load_dataset

    try:
        for number, row in enumerate(load_dataset(name, split="train", streaming=True, revision=revision), start=1):
            _id_column(name, list(row), column, key)
            yield _record(row, None, column, f"{name}: row {number}").text
    except (OSError, ValueError) as error:  # what datasets raises for an unknown name
        raise UserError(
            f"{name} is not a file or folder, and cannot be read from the Hub ({error_summary(error)}); use a file"
        ) from error


class EmbeddingFileWriter:
    """Writer of a parquet or npy file in parts; the file appears when it is complete.

    A .parquet has the columns id, text and vector: fp32 lists of one length, null for a text without an embedding. A
    .npy is an fp32 array (texts, dim), with zeros for a text without an embedding.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.count = file, 0
        self._writing = atomic_write(file)
        self._out: Any = None  # a ParquetWriter, or the open .npy

    def __enter__(self) -> EmbeddingFileWriter:
        self.part = self._writing.__enter__()
        return self

    def add(self, ids: list[Any], texts: list[str], embeddings: np.ndarray, known: np.ndarray) -> None:
        """Append embeddings (texts, dim); those that are not `known` (texts,) are written as null or zeros."""
        dim = embeddings.shape[1]
        embeddings = np.where(known[:, None], embeddings, 0).astype("<f4")
        self.count += len(embeddings)
        if self.file.suffix == ".npy":
            if self._out is None:
                self._out = self.part.open("wb")
            self._out.seek(0)  # the header has the new count; numpy pads it to one length
            shape = {"descr": "<f4", "fortran_order": False, "shape": (self.count, dim)}
            np.lib.format.write_array_header_1_0(self._out, shape)
            self._out.seek(0, 2)
            self._out.write(embeddings.tobytes())
            return
        lists = pa.FixedSizeListArray.from_arrays(
            pa.array(embeddings.ravel(), pa.float32()), dim, mask=pa.array(~known)
        )
        if self._out is None:
            id_type = pa.int64() if isinstance(ids[0], int) else pa.string()
            schema = pa.schema([("id", id_type), ("text", pa.string()), ("vector", lists.type)])
            self._out = pq.ParquetWriter(self.part, schema)
        schema = self._out.schema
        self._out.write_table(pa.table([pa.array(ids, schema.field("id").type), pa.array(texts), lists], schema=schema))

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if self._out is not None:
                self._out.close()
        except OSError as failed:  # on a full disk also closing fails
            error = error or failed
        self._writing.__exit__(*((None,) * 3 if error is None else (type(error), error, error.__traceback__)))
