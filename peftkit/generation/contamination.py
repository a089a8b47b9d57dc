"""Contamination: overlaps of texts with evaluation sets, by n-grams of 13 and 8 words and by whole texts."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from peftkit.config import FILES, UserError
from peftkit.config.files import ending_of, read_text, reading, visible_files
from peftkit.metrics.words import text_words

NGRAMS = {"13-gram": 13, "8-gram": 8}  # words; 13 is GPT-3's (Brown et al. 2020, appendix C)
MIN_WORDS = 3  # of a text whose exact match counts: shorter ones, such as "yes", match by chance


class EvaluationSets:
    """Indexed texts of evaluation sets, which no training example may contain."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, tuple[str, int]]] = {match_type: {} for match_type in ("exact", *NGRAMS)}
        self.examples = 0

    def add(self, name: str, examples: Iterable[Sequence[str]]) -> None:
        """Add the texts of each example of a set."""
        for number, texts in enumerate(examples):
            self.examples += 1
            words = [normalized_words(text) for text in texts]
            for match_type, known in self._known.items():
                for part in _parts(words, match_type):
                    known.setdefault(part, (name, number))

    def overlap(self, texts: Sequence[str]) -> str | None:
        """Describe the largest overlap of any of the texts: exact, else 13-gram, else 8-gram; None without overlap."""
        words = [normalized_words(text) for text in texts]
        for match_type, known in self._known.items():
            if found := next((part for part in _parts(words, match_type) if part in known), None):
                source, number = known[found]
                return f"{match_type} of {source} example {number}: {found[:160]}"
        return None


def file_texts(path: Path) -> Iterator[list[str]]:
    """Yield the texts of each example of a file, or of each file of a folder, from all columns.

    Raises:
        UserError: a file cannot be read, or a folder has none.
    """
    if path.is_dir():
        if not (files := visible_files(path, (*FILES, ".txt"), is_deep=True)):
            raise UserError(f"{path} has no txt, csv, jsonl or parquet files; name a folder of evaluation sets")
        for file in files:
            yield from file_texts(file)
    elif ending_of(path) == ".txt":
        with reading(path):
            lines = read_text(path).splitlines()
        yield from ([line] for line in lines)
    else:
        from peftkit.data.tables import read_file

        yield from (list(iter_texts(example)) for example in read_file(path))


def iter_texts(value: Any) -> Iterator[str]:
    """Yield every text of an example, nested ones too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and value and all(isinstance(part, str) and " " not in part for part in value):
        yield " ".join(value)  # a text split into words
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from iter_texts(part)


def normalized_words(text: str) -> list[str]:
    """Return the words of a text in Unicode's NFKC form, in which full-width letters and ligatures are plain ones."""
    return text_words(unicodedata.normalize("NFKC", text))


def _parts(texts: Sequence[list[str]], match_type: str) -> Iterator[str]:
    """Yield the texts themselves, unless they are short, or their n-grams."""
    for words in texts:
        size = NGRAMS.get(match_type, max(len(words), MIN_WORDS))
        yield from (" ".join(words[first : first + size]) for first in range(len(words) - size + 1))
