"""Streaming of a corpus that may be larger than memory, document by document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from peftkit.config import TEXTS, UserError, error_summary
from peftkit.data.streaming import reading, stream_texts

LONGEST_LINE = 1 << 20  # characters; a file without line ends is read in parts of this size
TENTH = 10


class Document(NamedTuple):
    """A text, and whether it belongs to the held-out tenth."""

    text: str
    is_held_out: bool


def stream_documents(
    corpus: str, column: str = "text", sample_by: str = "line", key: str = "extend.column", revision: str | None = None
) -> Iterator[Document]:
    """Read a file, a folder of files, or a Hub dataset document by document, in constant memory.

    A document is a line of a .txt file, or, with sample_by="document", the whole file; of .jsonl, .parquet and the Hub
    it is the value of `column` in a row. Every tenth document is held out; of ten files or more, every tenth file, so
    that the terms of a file are in one part only. `key` is the configuration key that selects the column; `revision`
    is that of a Hub dataset.

    Raises:
        UserError: the corpus does not exist, or a file of it cannot be read.
    """
    files = corpus_files(corpus)
    by_file = files is not None and len(files) >= TENTH
    number = 0
    for index, file in enumerate(files or [None]):
        for text in _hub_texts(corpus, column, key, revision) if file is None else _texts(file, column, sample_by, key):
            if text.strip():
                number += 1
                yield Document(text, (index + 1 if by_file else number) % TENTH == 0)


def corpus_files(corpus: str) -> list[Path] | None:
    """Return the files of a corpus in a fixed order; None where its name is neither a file nor a folder.

    Raises:
        UserError: the folder has no text files.
    """
    path = Path(corpus)
    if path.is_file():
        return [path]
    if not path.is_dir():
        return None
    files = sorted(file for file in path.rglob("*") if file.suffix in TEXTS and file.is_file())
    if not files:
        raise UserError(f"{corpus} has no {', '.join(TEXTS)} files; use another folder, or a file")
    return files


def _texts(file: Path, column: str, sample_by: str, key: str) -> Iterator[str]:
    if file.suffix != ".txt":
        yield from (row.text for row in stream_texts(file, column, key))
        return
    with reading(file):
        yield from _lines(file) if sample_by == "line" else _whole(file)


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        while line := lines.readline(LONGEST_LINE):
            yield line.rstrip("\r\n")


def _whole(file: Path) -> Iterator[str]:
    """Yield the text of a file; in parts of LONGEST_LINE where it is longer."""
    with file.open(encoding="utf-8-sig") as text:
        while part := text.read(LONGEST_LINE):
            yield part


def _hub_texts(name: str, column: str, key: str, revision: str | None) -> Iterator[str]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split="train", streaming=True, revision=revision)
        for row in rows:
            if column not in row:
                raise UserError(f"{name} has no column {column} (columns: {', '.join(row)}); set {key}=NAME")
            yield str(row[column] or "")
    except (OSError, ValueError) as error:  # what datasets raises for an unknown name
        raise UserError(
            f"{name} is not a file or folder, and cannot be read from the Hub ({error_summary(error)}); use a file"
        ) from error
