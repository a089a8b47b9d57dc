"""Exact near-duplicate search by ROUGE-L: an index of kept instructions that compares a new one with few of them."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np

from peftkit.metrics.words import rouge_l_scores, text_words

SLACK = 1e-9  # rouge_score computes in floats: a score exactly at the threshold may come out on either side of it
Element = tuple[str, int]  # a token and the number of its occurrence in the text, so that a set of them is a multiset


class NoveltyIndex:
    """An index of texts with names that finds the nearest one at or above a threshold, without approximation.

    The longest common subsequence is no longer than the tokens that two texts have in common as multisets: an inverted
    index counts these, and the subsequence is computed only where they are enough for the threshold.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.compared = 0  # pairs whose subsequence was computed
        self._names: list[str] = []
        self._tokens: list[list[str]] = []
        self._lengths = array("l")
        self._postings: defaultdict[Element, array[int]] = defaultdict(partial(array, "l"))  # -> numbers of texts

    def add(self, text: str, name: str = "") -> None:
        tokens = text_words(text)
        for element in _multiset(tokens):
            self._postings[element].append(len(self._tokens))
        self._names.append(name)
        self._tokens.append(tokens)
        self._lengths.append(len(tokens))

    def describe_similar(self, text: str) -> str | None:
        """Return the score and name of the nearest text; None where the text is new."""
        match = self.nearest(text)
        return None if match is None else f"{match[1]:.4f} to {self._names[match[0]]}"

    def nearest(self, text: str) -> tuple[int, float] | None:
        """Return the number and score of the first nearest text at or above the threshold; None where there is none."""
        tokens = text_words(text)
        candidates = self._candidates(tokens)
        self.compared += len(candidates)
        scores = rouge_l_scores(tokens, [self._tokens[number] for number in candidates])
        best = max(scores, default=0.0)
        return (candidates[scores.index(best)], best) if best >= self.threshold else None

    def _candidates(self, tokens: list[str]) -> list[int]:
        """Return, in order, the texts that have enough tokens in common with this one, in any order."""
        postings = [self._postings[element] for element in _multiset(tokens) if element in self._postings]
        if not postings:
            return []
        common = np.bincount(np.concatenate(postings), minlength=len(self._tokens))
        required = (self.threshold - SLACK) * (len(tokens) + np.asarray(self._lengths)) / 2
        return np.flatnonzero(common >= required).tolist()


def _multiset(tokens: Sequence[str]) -> list[Element]:
    return [(token, number) for token, count in Counter(tokens).items() for number in range(count)]
