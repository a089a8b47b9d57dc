"""Exact near-duplicate search by ROUGE-L: an index of kept instructions that compares a new one with few of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

TOKEN = re.compile(r"[a-z0-9]+")  # as rouge_score tokenizes, without its stemmer
SLACK = 1e-9  # rouge_score computes in floats: a score exactly at the threshold may come out on either side of it
FIRST_REBUILD = 64  # texts


class Match(NamedTuple):
    """The number of an indexed text, and its ROUGE-L F-measure."""

    number: int
    score: float


class NoveltyIndex:
    """An index of texts that finds the nearest one at or above a threshold, without approximation.

    The longest common subsequence is no longer than the tokens that two texts have in common as bags, so three bounds
    come first: the lengths differ too much; none of the rarest tokens of each in common, as in set-similarity joins
    (Chaudhuri et al. 2006, "prefix filter"); too few tokens in common.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.compared = 0  # pairs whose subsequence was computed
        self._least = threshold - SLACK
        self._tokens: list[list[str]] = []
        self._bags: list[frozenset[int]] = []
        self._ids: dict[tuple[str, int], int] = {}  # of a token's first, second, ... occurrence in a text
        self._counts: Counter[int] = Counter()  # texts that contain it, by id
        self._ranks: dict[int, int] = {}  # rarest first, as of the last rebuild
        self._postings: dict[int, list[int]] = {}  # id -> the texts that have it among their rarest
        self._rebuild_at = FIRST_REBUILD

    def add(self, text: str) -> None:
        tokens = rouge_tokens(text)
        bag = [self._ids.setdefault(element, len(self._ids)) for element in _occurrences(tokens)]
        self._tokens.append(tokens)
        self._bags.append(frozenset(bag))
        self._counts.update(bag)
        self._index(len(self._bags) - 1)
        if len(self._bags) >= self._rebuild_at:
            self._rebuild()

    def nearest(self, text: str) -> Match | None:
        """Return the nearest indexed text at or above the threshold; None where the text is new.

        A text without tokens, as in a script other than Latin, always counts as new.
        """
        tokens = rouge_tokens(text)
        matcher, best = LcsMatcher(tokens), None
        for number in self._candidates(tokens) if tokens else ():
            self.compared += 1
            other = self._tokens[number]
            score = f_measure(matcher.length(other), len(other), len(tokens))
            if score >= self.threshold and (best is None or score > best.score):
                best = Match(number, score)
        return best

    def _candidates(self, tokens: list[str]) -> Iterator[int]:
        """Yield, in order, the texts that have enough tokens in common with this one, in any order."""
        length = len(tokens)
        bag = {self._ids[element] for element in _occurrences(tokens) if element in self._ids}
        # tokens that no indexed text has are the rarest, and lead to none
        rarest = sorted(bag, key=self._rarity)[: max(self._prefix(length) - (length - len(bag)), 0)]
        for number in sorted({number for element in rarest for number in self._postings.get(element, ())}):
            other = self._bags[number]
            common = self._least * (length + len(other)) / 2  # at least
            if min(length, len(other)) >= common and len(bag & other) >= common:
                yield number

    def _rarity(self, element: int) -> tuple[int, int]:
        return self._ranks.get(element, -1), element  # tokens newer than the last rebuild are rarer than all others

    def _prefix(self, length: int) -> int:
        """Return how many of its rarest tokens a text of this length is indexed by.

        Another text with F >= t shares at least t / (2 - t) of its tokens, since F <= 2 s / (length + s) with s shared.
        """
        shared = max(math.ceil(length * self._least / (2 - self._least) - SLACK), 1)
        return length - shared + 1

    def _index(self, number: int) -> None:
        bag = self._bags[number]
        for element in sorted(bag, key=self._rarity)[: self._prefix(len(bag))] if bag else ():
            self._postings.setdefault(element, []).append(number)

    def _rebuild(self) -> None:
        """Rank tokens by the number of texts that contain them; done at each doubling, it costs a constant per text."""
        rarest_first = sorted(self._ids.values(), key=self._counts.__getitem__)
        self._ranks = {element: rank for rank, element in enumerate(rarest_first)}
        self._postings = {}
        for number in range(len(self._bags)):
            self._index(number)
        self._rebuild_at = 2 * len(self._bags)


def rouge_l(first: str, second: str) -> float:
    """Return the ROUGE-L F-measure of two texts, bit for bit as rouge_score computes it."""
    tokens, other = rouge_tokens(first), rouge_tokens(second)
    return f_measure(LcsMatcher(tokens).length(other), len(other), len(tokens))


def nearest_text(text: str, others: Sequence[list[str]]) -> Match | None:
    """Return the nearest of some tokenized texts at any distance; None where it shares no token with any."""
    tokens = rouge_tokens(text)
    matcher, bag = LcsMatcher(tokens), Counter(tokens)
    best: Match | None = None
    for number, other in enumerate(others):
        common = (bag & Counter(other)).total()
        if not common or (best is not None and f_measure(common, len(other), len(tokens)) <= best.score):
            continue
        score = f_measure(matcher.length(other), len(other), len(tokens))
        if best is None or score > best.score:
            best = Match(number, score)
    return best


def rouge_tokens(text: str) -> list[str]:
    """Return the tokens of rouge_score: runs of a to z and digits in the lower-cased text."""
    return TOKEN.findall(text.lower())


def f_measure(common: int, target: int, prediction: int) -> float:
    """Return F from the length of the common subsequence and two lengths, in rouge_score's order of operations."""
    if not common:
        return 0.0
    precision, recall = common / prediction, common / target
    return 2 * precision * recall / (precision + recall)


class LcsMatcher:
    """The longest common subsequence of one text with many: a table row is the bits of an integer (Hyyrö 2004)."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._places: dict[str, int] = {}
        for place, token in enumerate(tokens):
            self._places[token] = self._places.get(token, 0) | 1 << place
        self._all = (1 << len(tokens)) - 1

    def length(self, other: Sequence[str]) -> int:
        """Return the length of the longest common subsequence."""
        row = self._all
        for token in other:
            if (matched := row & self._places.get(token, 0)) != 0:
                row = ((row + matched) | (row - matched)) & self._all
        return (~row & self._all).bit_count()


def _occurrences(tokens: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield each token with the number of its occurrence in the text, so that sets count as bags."""
    seen: Counter[str] = Counter()
    for token in tokens:
        yield token, seen[token]
        seen[token] += 1
