"""Contamination: overlaps of texts with evaluation sets, by n-grams of 13 and 8 words and by whole texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.config import FILES, UserError

SHORT, LONG = 8, 13  # sizes of n-grams in words; 13 is GPT-3's (Brown et al. 2020, appendix C)
MIN_WORDS = 3  # of a text whose exact match counts: shorter ones, as "yes", match by chance
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Overlap:
    """What a text shares with an example of an evaluation set: `kind` is exact, 13-gram or 8-gram."""

    kind: str
    source: str
    example: int
    words: str

    def __str__(self) -> str:
        return f"{self.kind} of {self.source} example {self.example}: {self.words[:160]}"


class EvaluationSets:
    """Indexed texts of evaluation sets, which no training example may contain."""

    def __init__(self) -> None:
        self._whole: dict[str, tuple[str, int]] = {}
        self._short: dict[str, tuple[str, int]] = {}
        self._long: dict[str, tuple[str, int]] = {}
        self.examples = 0

    def add(self, name: str, examples: Iterable[Sequence[str]]) -> None:
        """Add the texts of each example of a set."""
        for number, texts in enumerate(examples):
            self.examples += 1
            for words in map(normalized_words, texts):
                if len(words) >= MIN_WORDS:
                    self._whole.setdefault(" ".join(words), (name, number))
                for size, known in ((SHORT, self._short), (LONG, self._long)):
                    for ngram in _ngrams(words, size):
                        known.setdefault(ngram, (name, number))

    def overlap(self, texts: Sequence[str]) -> Overlap | None:
        """Return the largest overlap of any of the texts: exact, else 13-gram, else 8-gram; None without overlap."""
        split = [normalized_words(text) for text in texts]
        for words in split:
            if (whole := " ".join(words)) in self._whole:
                return Overlap("exact", *self._whole[whole], whole)
        for kind, size, known in (("13-gram", LONG, self._long), ("8-gram", SHORT, self._short)):
            for words in split:
                for ngram in _ngrams(words, size):
                    if ngram in known:
                        return Overlap(kind, *known[ngram], ngram)
        return None


def split_contaminated(examples: Iterable[Sequence[str]], sets: EvaluationSets) -> tuple[list[int], dict[int, Overlap]]:
    """Return the positions of examples without overlap, and the overlap of each other one by its position."""
    clean: list[int] = []
    dropped: dict[int, Overlap] = {}
    for number, texts in enumerate(examples):
        if (overlap := sets.overlap(texts)) is None:
            clean.append(number)
        else:
            dropped[number] = overlap
    return clean, dropped


def file_texts(path: Path) -> Iterator[list[str]]:
    """Yield the texts of each example of a file, or of each file of a folder, from all columns.

    Raises:
        UserError: a file cannot be read, or a folder has none.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in (*FILES, ".txt"))
        if not files:
            raise UserError(f"{path} has no txt, csv, jsonl or parquet files; name a folder of evaluation sets")
        for file in files:
            yield from file_texts(file)
    elif path.suffix == ".txt":
        yield from ([line] for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    else:
        from peftkit.data.tables import read_file

        for example in read_file(path):
            yield list(iter_texts(example))


def iter_texts(value: Any) -> Iterator[str]:
    """Yield every text of an example, nested ones too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from iter_texts(part)
    elif isinstance(value, (list, tuple)):
        if value and all(isinstance(part, str) and " " not in part for part in value):
            yield " ".join(value)  # a text split into words
        else:
            for part in value:
                yield from iter_texts(part)


def normalized_words(text: str) -> list[str]:
    """Return the words of a text in lower case and Unicode's NFKC form, without punctuation."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def _ngrams(words: Sequence[str], size: int) -> Iterator[str]:
    for first in range(len(words) - size + 1):
        yield " ".join(words[first : first + size])
