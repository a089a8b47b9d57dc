"""Detection of texts that overlap with evaluation sets."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.config import FILES, UserError

SHORT, LONG = 8, 13  # words in a row; the latter is GPT-3's measure (Brown et al. 2020, appendix C)
SAYS_SOMETHING = 3  # words of a text that, found again as a whole, is no accident: "yes" would be
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Overlap:
    """What a text has in common with a row of an evaluation set: 13 words in a row, 8, or all of it (exact)."""

    kind: str
    source: str
    row: int
    words: str

    def __str__(self) -> str:
        return f"{self.kind} of {self.source} row {self.row}: {self.words[:160]}"


class EvaluationSets:
    """Texts that no training row may hold."""

    def __init__(self) -> None:
        self._whole: dict[str, tuple[str, int]] = {}
        self._runs: dict[str, tuple[str, int]] = {}  # of SHORT words
        self._long: dict[str, tuple[str, int]] = {}
        self.rows = 0

    def add(self, name: str, rows: Iterable[Sequence[str]]) -> None:
        """Add the texts of each row of a set."""
        for number, texts in enumerate(rows):
            self.rows += 1
            for words in map(normalized_words, texts):
                if len(words) >= SAYS_SOMETHING:
                    self._whole.setdefault(" ".join(words), (name, number))
                for size, known in ((SHORT, self._runs), (LONG, self._long)):
                    for run in _runs(words, size):
                        known.setdefault(run, (name, number))

    def overlap(self, texts: Sequence[str]) -> Overlap | None:
        """Return the largest overlap of any of the texts: exact, else 13 words in a row, else 8; None where none is."""
        split = [normalized_words(text) for text in texts]
        for words in split:
            if (whole := " ".join(words)) in self._whole:
                return Overlap("exact", *self._whole[whole], whole)
        for kind, size, known in (("13-gram", LONG, self._long), ("8-gram", SHORT, self._runs)):
            for words in split:
                for run in _runs(words, size):
                    if run in known:
                        return Overlap(kind, *known[run], run)
        return None


def split_contaminated(rows: Iterable[Sequence[str]], sets: EvaluationSets) -> tuple[list[int], dict[int, Overlap]]:
    """Return the numbers of the rows that hold nothing of the evaluation sets, and what each of the others holds."""
    clean: list[int] = []
    dropped: dict[int, Overlap] = {}
    for number, texts in enumerate(rows):
        if (found := sets.overlap(texts)) is None:
            clean.append(number)
        else:
            dropped[number] = found
    return clean, dropped


def file_texts(path: Path) -> Iterator[list[str]]:
    """Yield the texts of each row of a file, or of each file of a folder, whatever their columns are called.

    Raises:
        UserError: a file cannot be read, or a folder holds none.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in (*FILES, ".txt"))
        if not files:
            raise UserError(f"{path} holds no txt, csv, jsonl or parquet files; name a folder of evaluation sets")
        for file in files:
            yield from file_texts(file)
    elif path.suffix == ".txt":
        yield from ([line] for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    else:
        from peftkit.data.files import read_file

        for row in read_file(path):
            yield list(iter_texts(row))


def iter_texts(value: Any) -> Iterator[str]:
    """Yield every text in a row, however deep it lies."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from iter_texts(part)
    elif isinstance(value, (list, tuple)):
        if value and all(isinstance(part, str) and " " not in part for part in value):
            yield " ".join(value)  # a text that was cut into words
        else:
            for part in value:
                yield from iter_texts(part)


def normalized_words(text: str) -> list[str]:
    """Return the words of a text without case, punctuation, and other ways to write the same letter."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def _runs(words: Sequence[str], size: int) -> Iterator[str]:
    for first in range(len(words) - size + 1):
        yield " ".join(words[first : first + size])
