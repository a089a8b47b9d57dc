"""Few-shot examples: balanced sampling of training examples, and prompts that start with as many as fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

SHOT_SEPARATOR = "\n\n"  # after each example (Brown et al. 2020, section 2.4: one or two line breaks)


def sample_balanced(groups: Sequence[int], number: int, seed: int) -> list[int]:
    """Return the indices (number,) of a sample with equally many examples of each group, ordered by the seed.

    Each round takes one example of each group with examples left, so that any last rounds are balanced too.
    """
    random = np.random.default_rng(seed)
    kinds = np.asarray(groups)
    left = [random.permutation(np.flatnonzero(kinds == kind)).tolist() for kind in np.unique(kinds)]
    sampled: list[int] = []
    while len(sampled) < number and any(left):
        for group in random.permutation(len(left)):
            if left[group] and len(sampled) < number:
                sampled.append(left[group].pop())
    return sampled[::-1]  # prompts drop the first ones where they don't fit: those of the incomplete round


def shot_ids(tokenizer: PreTrainedTokenizerBase, shots: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each example with the separator after it."""
    texts = [f"{shot}{SHOT_SEPARATOR}" for shot in shots]
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []


def context_length(tokenizer: PreTrainedTokenizerBase, positions: int | None) -> int:
    """Return the maximum number of prompt and answer tokens: the smaller limit of model and tokenizer."""
    return min(tokenizer.model_max_length, positions or tokenizer.model_max_length)


def prepend_shots(
    shots: Sequence[list[int]], question: list[int], room: int, begin: int | None
) -> tuple[list[int], int]:
    """Return the prompt of the last examples that fit into `room` tokens with the question, and the number of others.

    `begin` is the beginning-of-text token, None where the tokenizer has none.
    """
    lead = 1 if begin is not None and question[:1] == [begin] else 0
    kept: list[list[int]] = []
    room -= len(question)
    for shot in reversed(shots):
        room -= len(shot)
        if room < 0:
            break
        kept.insert(0, shot)
    return [*question[:lead], *(token for shot in kept for token in shot), *question[lead:]], len(shots) - len(kept)
