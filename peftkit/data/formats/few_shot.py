"""Few-shot examples: a balanced sample of training examples, and as many as fit before a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

SHOT_SEPARATOR = "\n\n"  # behind an example (Brown et al. 2020, section 2.4: one or two line breaks)


def sample_balanced(groups: Sequence[int], number: int, seed: int) -> list[int]:
    """Return the rows (number,) of examples, as many of each group as of any other, in an order of the seed's.

    Each round has one of each group that has one left, so that what is left of the last rounds is balanced too.
    """
    random = np.random.default_rng(seed)
    kinds = np.asarray(groups)
    left = [random.permutation(np.flatnonzero(kinds == kind)).tolist() for kind in np.unique(kinds)]
    drawn: list[int] = []
    while len(drawn) < number and any(left):
        for place in random.permutation(len(left)):
            if left[place] and len(drawn) < number:
                drawn.append(left[place].pop())
    return drawn[::-1]  # where there is no room, the first ones go: those of the round that was cut short


def shot_ids(tokenizer: PreTrainedTokenizerBase, shots: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each example and of the joint behind it."""
    texts = [f"{shot}{SHOT_SEPARATOR}" for shot in shots]
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []


def context_length(tokenizer: PreTrainedTokenizerBase, positions: int | None) -> int:
    """Return how many tokens a model reads and writes together: the least of what it and its tokenizer say."""
    return min(tokenizer.model_max_length, positions or tokenizer.model_max_length)


def prepend_shots(
    shots: Sequence[list[int]], question: list[int], room: int, begin: int | None
) -> tuple[list[int], int]:
    """Return the last examples that fit into the room, and the question; and how many were left out.

    `begin` is the token that begins a text, None where there is none.
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
