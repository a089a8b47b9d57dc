"""Near-duplicate search: MinHash over character n-grams finds candidates, whose Jaccard similarity is computed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

NGRAM = 5  # characters
MAX_CHARACTERS = 1000  # of a text that are compared
BANDS, ROWS = 12, 5  # a pair of similarity s is found with probability 1 - (1 - s**5)**12: 0.99 at 0.8
CHUNK = 2000  # texts that are hashed at once, so that their n-grams stay in the processor's cache
MAX_PAIRS = 200_000  # candidates whose similarity is computed
FACTOR = np.uint64(0x9E3779B97F4A7C15)
SEED = 0


@dataclass(frozen=True)
class Pair:
    first: int
    second: int
    similarity: float


def near_duplicates(texts: Sequence[str], threshold: float) -> tuple[list[Pair], bool]:
    """Return pairs of texts whose sets of 5-grams have at least this Jaccard similarity, and whether all were compared.

    In a group of similar texts each is compared with the first and the one before, so that every text of the group is
    in some pair, but not every pair is returned.
    """
    if len(texts) < 2:
        return [], True
    signatures = np.concatenate([_signatures(texts[at : at + CHUNK]) for at in range(0, len(texts), CHUNK)])
    candidates = np.unique(np.concatenate(list(_candidates(signatures))))

    @cache
    def grams_of(number: int) -> frozenset[str]:
        return ngrams(texts[number])

    found = []
    for first, second in zip(*map(np.ndarray.tolist, np.divmod(candidates[:MAX_PAIRS], len(texts))), strict=True):
        similarity = jaccard(grams_of(first), grams_of(second))
        if similarity >= threshold:
            found.append(Pair(first, second, similarity))
    return sorted(found, key=lambda pair: (-pair.similarity, pair.first, pair.second)), len(candidates) <= MAX_PAIRS


def ngrams(text: str) -> frozenset[str]:
    """Return the set of n-grams of the compared part of a text; a shorter text is one n-gram."""
    part = text[:MAX_CHARACTERS]
    return frozenset(part[at : at + NGRAM] for at in range(max(len(part) - NGRAM + 1, 1)))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the Jaccard similarity of two sets."""
    common = len(first & second)
    return common / (len(first) + len(second) - common)


def _signatures(texts: Sequence[str]) -> np.ndarray:
    """Return the smallest value of each hash function over the n-grams of each text (texts, functions)."""
    padded = [text[:MAX_CHARACTERS].ljust(NGRAM, "\0") for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "replace"), dtype=np.uint32).astype(np.uint64)
    hashes: np.ndarray = np.zeros(len(codes) - NGRAM + 1, dtype=np.uint64)
    for offset in range(NGRAM):
        hashes = (hashes + codes[offset : offset + len(hashes)] + np.uint64(1)) * FACTOR
    hashes = ((hashes ^ (hashes >> np.uint64(29))) * FACTOR >> np.uint64(32)).astype(np.uint32)
    sizes = np.array([*map(len, padded)])
    ends = np.cumsum(sizes)
    is_gram: np.ndarray = np.ones(
        len(codes), dtype=bool
    )  # those that begin in the last four characters reach into the next text
    for offset in range(1, NGRAM):
        is_gram[ends - offset] = False
    starts = np.concatenate([[0], np.cumsum(sizes - NGRAM + 1)[:-1]])
    numbers = hashes[is_gram[: len(hashes)]]
    factors = np.random.default_rng(SEED).integers(1 << 31, size=BANDS * ROWS, dtype=np.uint32) * np.uint32(2)
    return np.stack([np.minimum.reduceat(numbers * (factor | np.uint32(1)), starts) for factor in factors], axis=1)


def _candidates(signatures: np.ndarray) -> Iterator[np.ndarray]:
    """Yield pairs of texts with the same hashes in a band, as first * number of texts + second.

    Each is paired with the first of its group, and with its predecessor.
    """
    number = len(signatures)
    for band in range(BANDS):
        keys: np.ndarray = np.zeros(number, dtype=np.uint64)
        for row in signatures.T[band * ROWS : (band + 1) * ROWS]:
            keys = (keys ^ row) * FACTOR
        order = np.argsort(keys, kind="stable")
        is_same = keys[order][1:] == keys[order][:-1]
        firsts = np.maximum.accumulate(np.where(np.concatenate([[True], ~is_same]), np.arange(number), 0))
        later: np.ndarray = np.flatnonzero(is_same) + 1
        yield order[firsts[later]] * number + order[later]
        yield order[later - 1] * number + order[later]
