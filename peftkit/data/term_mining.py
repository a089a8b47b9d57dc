"""Mining of terms that a tokenizer splits into many tokens."""

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peftkit.config.files import read_text, reading

# letters and digits, and the punctuation inside terms: apt-get, TCP/IP, resolv.conf, LD_PRELOAD, D-Bus
WORD = re.compile(r"[^\W_]+(?:[-_./+#]+[^\W_]+)*")
MIN_CHARACTERS, MAX_CHARACTERS = 3, 60  # of a word
KEPT_WORDS = 250_000  # words whose counts are kept by a pruning


@dataclass(frozen=True)
class WordCounts:
    """Counts of words, with the bound of their error.

    A count is too low by `max_undercount` at most, and a word without a count occurred at most that often.
    """

    words: dict[str, int]
    total: int
    max_undercount: int


@dataclass(frozen=True)
class TermCandidate:
    """A word that could become one token; it has `pieces` tokens now, so it saves count * (pieces - 1) of them."""

    term: str
    count: int
    pieces: int


def read_terms(file: Path) -> list[str]:
    """Return the lines of a list of terms unchanged, including blank ones; the caller validates the terms.

    Raises:
        UserError: the file cannot be read.
    """
    with reading(file):
        return read_text(file).splitlines()


def count_words(texts: Iterable[str], kept: int = KEPT_WORDS) -> WordCounts:
    """Count words in bounded memory: beyond twice `kept` different words, the rarer ones are dropped.

    The error is bounded as in lossy counting (Manku and Motwani 2002, section 4.2), and returned: each pruning drops
    at most its largest dropped count of a word.
    """
    counts: Counter[str] = Counter()
    total = max_undercount = 0
    for text in texts:
        words = [
            w for w in WORD.findall(text) if MIN_CHARACTERS <= len(w) <= MAX_CHARACTERS and any(map(str.isalpha, w))
        ]
        total += len(words)
        counts.update(words)
        if len(counts) > 2 * kept:
            largest_dropped = heapq.nlargest(kept + 1, counts.values())[-1]
            counts = Counter({word: count for word, count in counts.items() if count > largest_dropped})
            max_undercount += largest_dropped
    return WordCounts(dict(counts), total, max_undercount)


def rank_candidates(
    counts: WordCounts, pieces: Callable[[Sequence[str]], Sequence[int]], budget: int, min_count: int
) -> list[TermCandidate]:
    """Return the `budget` words that save the most tokens, best first, of those that occur `min_count` times or more.

    `pieces` returns the number of tokens of each word; words of one token save nothing.
    """
    words = [word for word, count in counts.words.items() if count >= min_count]
    candidates = (
        TermCandidate(word, counts.words[word], number)
        for word, number in zip(words, pieces(words), strict=True)
        if number > 1
    )
    return heapq.nsmallest(budget, candidates, key=lambda word: (-word.count * (word.pieces - 1), word.term))
