"""Streaming of a corpus that may be larger than memory, document by document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from peftkit.config import TEXTS, UserError, error_summary
from peftkit.data.streaming import reading, stream_texts

LONGEST_LINE = 1 << 20  # letters; a file without line ends is read in parts of this size
TENTH = 10


class Document(NamedTuple):
    """One text, and whether it belongs to the tenth that only measures."""

    text: str
    is_held_out: bool


def stream_documents(
    corpus: str, column: str = "text", sample_by: str = "line", key: str = "extend.column", revision: str | None = None
) -> Iterator[Document]:
    """Read a file, a folder of files, or a Hub dataset, one document after the other, in constant memory.

    A document is a line of a .txt file, or, with `sample_by` document, all of it; or the column `column` of a row of
    .jsonl, .parquet or the Hub. Every tenth is held out; where there are ten files or more, every tenth file whole, so
    that no file's terms are in both parts. `key` is what a user names the column with; `revision` is the Hub's.

    Raises:
        UserError: there is no such corpus, or a file of it cannot be read.
    """
    files = corpus_files(corpus)
    by_file = files is not None and len(files) >= TENTH
    number = 0
    for place, file in enumerate(files or [None]):
        for text in _hub_texts(corpus, column, key, revision) if file is None else _texts(file, column, sample_by, key):
            if text.strip():
                number += 1
                yield Document(text, (place + 1 if by_file else number) % TENTH == 0)


def corpus_files(corpus: str) -> list[Path] | None:
    """Return the files of a corpus in a fixed order; None where its name is one of the Hub.

    Raises:
        UserError: there is no such file, or no text in the folder.
    """
    path = Path(corpus)
    if path.is_file():
        return [path]
    if not path.is_dir():
        return None
    files = sorted(file for file in path.rglob("*") if file.suffix in TEXTS and file.is_file())
    if not files:
        raise UserError(f"{corpus} holds no {', '.join(TEXTS)}; name a folder that does, or a file")
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
    """Yield a file's text, one beyond LONGEST_LINE in parts."""
    with file.open(encoding="utf-8-sig") as text:
        while part := text.read(LONGEST_LINE):
            yield part


def _hub_texts(name: str, column: str, key: str, revision: str | None) -> Iterator[str]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split="train", streaming=True, revision=revision)
        for row in rows:
            if column not in row:
                raise UserError(f"{name} has no column {column} ({', '.join(row)}); set {key}=NAME")
            yield str(row[column] or "")
    except (OSError, ValueError) as error:  # what datasets raises for a name that neither disk nor Hub has
        raise UserError(
            f"{name} is no file or folder, and the Hub gives none ({error_summary(error)}); name a file"
        ) from error
