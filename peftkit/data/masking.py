"""Masking of tokens and whole words for masked language modelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from peftkit.data.offline_corpus import TokenPair

MASKED, SWAPPED = 0.8, 0.1  # of the chosen tokens; the rest stay as they are


def mask_tokens(
    ids: Sequence[int], rng: np.random.Generator, share: float, mask_id: int, known: np.ndarray, groups: np.ndarray
) -> TokenPair:
    """Choose a share of a block's tokens, and return what the model reads and what it is to say, -100 elsewhere.

    Of the chosen, 80 % become the mask, 10 % a random token of `known`, and 10 % stay (Devlin et al. 2019, section
    3.1). Tokens (tokens,) of one number in `groups` are chosen together, those of -1 never.
    """
    kinds = np.unique(groups[groups >= 0])
    inputs, targets = np.array(ids), np.full(len(ids), -100)
    if len(kinds):
        wanted, order = max(1, round(share * int((groups >= 0).sum()))), rng.permutation(kinds)
        sizes = np.cumsum([np.count_nonzero(groups == kind) for kind in order])
        places = np.flatnonzero(np.isin(groups, order[: int(np.searchsorted(sizes, wanted)) + 1]))
        targets[places] = inputs[places]
        draws = rng.random(len(places))
        inputs[places[draws < MASKED]] = mask_id
        swapped = places[(draws >= MASKED) & (draws < MASKED + SWAPPED)]
        inputs[swapped] = rng.choice(known, size=len(swapped))
    return inputs.tolist(), targets.tolist()


def word_starts(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Tell of each token id (vocabulary,) whether a word begins with it: WordPiece, byte-level BPE, SentencePiece."""
    pieces: Any = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    spaced = next((mark for mark in ("Ġ", "▁") if sum(str(piece).startswith(mark) for piece in pieces) > 100), None)
    if spaced is not None:
        return np.array([str(piece).startswith(spaced) for piece in pieces])
    return np.array([not str(piece).startswith("##") for piece in pieces])


def whole_words(ids: Sequence[int], starts: np.ndarray, special: set[int]) -> np.ndarray:
    """Number the word of each token (tokens,), and -1 for special tokens."""
    begins = starts[np.array(ids, dtype=int)]
    begins[:1] = True
    return np.where([token in special for token in ids], -1, np.cumsum(begins))


def single_tokens(ids: Sequence[int], special: set[int]) -> np.ndarray:
    """Number each token (tokens,) on its own, and -1 for special tokens."""
    return np.where([token in special for token in ids], -1, np.arange(len(ids)))
