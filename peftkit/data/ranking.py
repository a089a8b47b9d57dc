"""The rank of the right document for each query among all documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

AT_ONCE = 1024  # queries per block of the similarity matrix
TIE = 1e-6  # between two cosines, which differ that much with the padding of a batch
NONE = -1.0  # the cosine where there is no wrong document


class Ranked(NamedTuple):
    """For each pair (pairs,): the rank of its document from 1, its cosine, and that of the best wrong document."""

    ranks: np.ndarray
    right: np.ndarray
    wrong: np.ndarray


def rank_documents(texts: Sequence[Sequence[str]], vectors: np.ndarray) -> Ranked:
    """Rank the documents of all pairs for each query; equal texts count once.

    A tie counts against the right document, so that a model with constant vectors scores zero. Right documents of other
    pairs with the same query are excluded from its ranking.

    Args:
        texts: for each pair its query, its right document, and any wrong documents.
        vectors: (pairs, texts, width), normalized to length one.
    """
    number_of: dict[str, int] = {}
    positions = []
    for row, (_, *documents) in enumerate(texts):
        for column, text in enumerate(documents, start=1):
            if text not in number_of:
                number_of[text] = len(number_of)
                positions.append((row, column))
    pool = vectors[tuple(np.array(positions).T)].astype(np.float64)
    right_for: dict[str, set[int]] = {}
    for query, document, *_ in texts:
        right_for.setdefault(query, set()).add(number_of[document])
    own = np.array([number_of[document] for _, document, *_ in texts])
    ranks: np.ndarray = np.empty(len(texts), dtype=int)
    right, wrong = np.empty(len(texts)), np.empty(len(texts))
    for first in range(0, len(texts), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        cosines = vectors[part, 0].astype(np.float64) @ pool.T
        right[part] = cosines[np.arange(len(cosines)), own[part]]
        for row, (query, *_) in enumerate(texts[part]):
            cosines[row, list(right_for[query])] = -np.inf
        ranks[part] = 1 + (cosines >= right[part, None] - TIE).sum(axis=1)
        wrong[part] = cosines.max(axis=1)
    return Ranked(ranks, right, np.where(np.isfinite(wrong), wrong, NONE))
