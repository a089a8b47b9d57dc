"""Turn a stream of instructions into answers to one question, exactly: is a kept one as near as this by ROUGE-L?"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

TOKEN = re.compile(r"[a-z0-9]+")  # as rouge_score cuts text, without its stemmer
SLACK = 1e-9  # rouge_score computes in floats: what is exactly at the threshold may come out on either side of it


class Match(NamedTuple):
    """A kept instruction by its number, and its ROUGE-L F-measure."""

    number: int
    score: float


class NoveltyIndex:
    """The kept instructions, indexed so that few of them are compared with a new one.

    Nothing is approximate. ROUGE-L's longest common subsequence is no longer than what two texts have in common as bags
    of tokens, so three bounds come before it: lengths too unlike; no token in common among the rarest of each, as in
    set-similarity joins (Chaudhuri et al. 2006, "prefix filter"); too few in common at all.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._least = threshold - SLACK
        self._tokens: list[list[str]] = []
        self._bags: list[frozenset[int]] = []
        self._ids: dict[tuple[str, int], int] = {}  # of a token's first, second, ... time in a text
        self._counts: list[int] = []  # texts with it, by id
        self._ranks: list[int] = []  # rarest first, as the index was built last
        self._found_in: dict[int, list[int]] = {}  # id: the texts that have it among their rarest
        self._rebuild_at = 64
        self.compared = 0  # pairs whose subsequence was computed

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, text: str) -> int:
        """Keep an instruction; return its number."""
        tokens = rouge_tokens(text)
        bag = [self._id(element) for element in _elements(tokens)]
        number = len(self._tokens)
        self._tokens.append(tokens)
        self._bags.append(frozenset(bag))
        for element in bag:
            self._counts[element] += 1
        self._index(number, bag)
        if len(self._tokens) >= self._rebuild_at:
            self._rebuild()
        return number

    def nearest(self, text: str) -> Match | None:
        """Return the nearest of the kept instructions at or above the threshold; None where the text is new.

        A text without any token, as one in another script, is new whatever is kept.
        """
        tokens = rouge_tokens(text)
        best: Match | None = None
        if not tokens:
            return best
        subsequence = LcsMatcher(tokens)
        for number in self._near(tokens):
            self.compared += 1
            other = self._tokens[number]
            score = f_measure(subsequence.length(other), len(other), len(tokens))
            if score >= self.threshold and (best is None or score > best.score):
                best = Match(number, score)
        return best

    def _near(self, tokens: list[str]) -> Iterator[int]:
        """Yield, in order, the kept texts that have enough tokens in common with this one, in whatever order."""
        length = len(tokens)
        known = [self._ids[element] for element in _elements(tokens) if element in self._ids]
        # a token that no kept text has counts among the rarest, and leads to none
        first = [*[None] * (length - len(known)), *sorted(known, key=self._order)][: self._prefix(length)]
        lists = [self._found_in[element] for element in first if element in self._found_in]
        bag = set(known)
        for number in sorted(set().union(*lists)):
            other = self._bags[number]
            common = self._least * (length + len(other)) / 2  # at least
            if min(length, len(other)) >= common and len(bag & other) >= common:
                yield number

    def _id(self, element: tuple[str, int]) -> int:
        found = self._ids.get(element)
        if found is None:
            found = self._ids[element] = len(self._ids)
            self._counts.append(0)
            self._ranks.append(-1)  # what came after the index was built is rarer than all before
        return found

    def _order(self, element: int) -> tuple[int, int]:
        return self._ranks[element], element

    def _prefix(self, length: int) -> int:
        """Return how many of its rarest tokens a text of this length must be found by.

        Another with F >= t shares at least t / (2 - t) of its tokens, for F <= 2 s / (length + s) with s in common.
        """
        shared = max(math.ceil(length * self._least / (2 - self._least) - SLACK), 1)
        return length - shared + 1

    def _index(self, number: int, bag: list[int]) -> None:
        for element in sorted(bag, key=self._order)[: self._prefix(len(bag))] if bag else ():
            self._found_in.setdefault(element, []).append(number)

    def _rebuild(self) -> None:
        """Rank tokens by how many texts have them by now; done at each doubling, it costs a constant a text."""
        for rank, element in enumerate(sorted(range(len(self._counts)), key=self._counts.__getitem__)):
            self._ranks[element] = rank
        self._found_in = {}
        for number, bag in enumerate(self._bags):
            self._index(number, list(bag))
        self._rebuild_at = 2 * len(self._tokens)


def rouge_l(first: str, second: str) -> float:
    """Return ROUGE-L's F-measure of two texts, to the last bit as rouge_score does."""
    tokens, other = rouge_tokens(first), rouge_tokens(second)
    return f_measure(LcsMatcher(tokens).length(other), len(other), len(tokens))


def nearest_text(text: str, others: Sequence[list[str]]) -> Match | None:
    """Return the nearest of some tokenized texts, however far it is; None where no token is in common with any."""
    tokens = rouge_tokens(text)
    subsequence, bag = LcsMatcher(tokens), Counter(tokens)
    best: Match | None = None
    for number, other in enumerate(others):
        common = (bag & Counter(other)).total()
        if not common or (best is not None and f_measure(common, len(other), len(tokens)) <= best.score):
            continue
        score = f_measure(subsequence.length(other), len(other), len(tokens))
        if best is None or score > best.score:
            best = Match(number, score)
    return best


def rouge_tokens(text: str) -> list[str]:
    """Cut a text as rouge_score does: in lower case, letters a to z and digits."""
    return TOKEN.findall(text.lower())


def f_measure(common: int, target: int, prediction: int) -> float:
    """Return F of a common subsequence and two lengths, in rouge_score's own order of operations."""
    if not common:
        return 0.0
    precision, recall = common / prediction, common / target
    return 2 * precision * recall / (precision + recall)


class LcsMatcher:
    """One text, ready to be compared with many: a row of the usual table is the bits of one integer (Hyyrö 2004)."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._places: dict[str, int] = {}
        for place, token in enumerate(tokens):
            self._places[token] = self._places.get(token, 0) | 1 << place
        self._all = (1 << len(tokens)) - 1

    def length(self, other: Sequence[str]) -> int:
        """Return the length of the longest common subsequence."""
        places, row = self._places, self._all
        for token in other:
            if (matched := row & places.get(token, 0)) != 0:
                row = ((row + matched) | (row - matched)) & self._all
        return (~row & self._all).bit_count()


def _elements(tokens: Sequence[str]) -> list[tuple[str, int]]:
    """Tell a token's second time in a text from its first, so that sets count as bags do."""
    seen: Counter[str] = Counter()
    found = []
    for token in tokens:
        found.append((token, seen[token]))
        seen[token] += 1
    return found
