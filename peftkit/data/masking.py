"""Masking of tokens and whole words for masked language modelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from peftkit.data.offline_corpus import TokenPair

MASKED, SWAPPED = 0.8, 0.1  # shares of the selected tokens; the rest stay unchanged


def mask_tokens(
    ids: Sequence[int], rng: np.random.Generator, share: float, mask_id: int, known: np.ndarray, groups: np.ndarray
) -> TokenPair:
    """Select a share of the tokens of a block; return the inputs and the targets, -100 where not selected.

    80 % of the selected tokens become the mask, 10 % a random token of `known`, and 10 % stay (Devlin et al. 2019,
    section 3.1). Tokens with equal numbers in `groups` (tokens,) are selected together, those with -1 never.
    """
    kinds = np.unique(groups[groups >= 0])
    inputs, targets = np.array(ids), np.full(len(ids), -100)
    if len(kinds):
        budget, order = max(1, round(share * int((groups >= 0).sum()))), rng.permutation(kinds)
        sizes = np.cumsum([np.count_nonzero(groups == kind) for kind in order])
        selected = np.flatnonzero(np.isin(groups, order[: int(np.searchsorted(sizes, budget)) + 1]))
        targets[selected] = inputs[selected]
        draws = rng.random(len(selected))
        inputs[selected[draws < MASKED]] = mask_id
        swapped = selected[(draws >= MASKED) & (draws < MASKED + SWAPPED)]
        inputs[swapped] = rng.choice(known, size=len(swapped))
    return inputs.tolist(), targets.tolist()


def word_starts(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return whether each token (vocabulary,) starts a word, for WordPiece, byte-level BPE and SentencePiece."""
    pieces: Any = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    spaced = next((mark for mark in ("Ġ", "▁") if sum(str(piece).startswith(mark) for piece in pieces) > 100), None)
    if spaced is not None:
        return np.array([str(piece).startswith(spaced) for piece in pieces])
    return np.array([not str(piece).startswith("##") for piece in pieces])


def whole_words(ids: Sequence[int], starts: np.ndarray, special: set[int]) -> np.ndarray:
    """Return the number of the word of each token (tokens,), -1 for special tokens."""
    begins = starts[np.array(ids, dtype=int)]
    begins[:1] = True
    return np.where([token in special for token in ids], -1, np.cumsum(begins))


def single_tokens(ids: Sequence[int], special: set[int]) -> np.ndarray:
    """Return a number for each token (tokens,), -1 for special tokens."""
    return np.where([token in special for token in ids], -1, np.arange(len(ids)))
