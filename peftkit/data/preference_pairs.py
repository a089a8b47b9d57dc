"""Reading of preference pairs: a prompt with a chosen and a rejected answer, as texts or as chat turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.config import UserError
from peftkit.data.chat import Turn
from peftkit.data.conversations import parse_turns
from peftkit.data.datasets import SUBSET_SEED, ExampleReader, require_columns, subset

Prompt = str | list[Turn]


class PreferenceReader(ExampleReader):
    """Reads a prompt and two answers; splits keep all pairs of a prompt together."""

    def parse_texts(self, cells: Sequence[Any], split: str) -> list[Any]:
        texts = parse_preference(list(cells), split)
        return [] if texts[1] == texts[2] else texts

    def split(self, examples: Dataset, size: float) -> tuple[Dataset, Dataset]:
        require_columns(self.task, examples, [self.task.text[0]])
        return split_by_prompt(examples, self.task.text[0], size, SUBSET_SEED)

    def search_split(self, examples: Dataset, number: int, limit: int) -> tuple[Dataset, Dataset]:
        rest, held_out = self.split(examples, number)
        return subset(rest, limit), held_out


def parse_preference(values: list[Any], split: str) -> list[Any]:
    """Return the prompt, the chosen and the rejected answer, each empty where it is missing.

    An answer becomes the text of one assistant turn; where an answer is turns, the prompt becomes turns too. An answer
    may be the whole conversation, with the turns of the prompt before its last turn, as in UltraFeedback.

    Raises:
        UserError: a list has other items than turns, an answer does not end with an assistant turn, or its first turns
            differ from the prompt.
    """
    prompt, *answers = (parse_prompt(value) for value in values)
    if not any(isinstance(answer, list) for answer in answers):
        return [prompt, *answers]
    turns: list[Turn] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) and prompt else list(prompt)  # type: ignore[arg-type]
    return [turns, *(_answer_text(answer, turns, split) for answer in answers)]


def parse_prompt(cell: Any) -> Prompt:
    """Return the text or the turns in a cell; empty where it is missing.

    Raises:
        UserError: a list has other items than turns.
    """
    if isinstance(cell, (list, tuple)):
        return parse_turns(cell)
    return "" if cell is None or not str(cell).strip() else str(cell)


def _answer_text(answer: Prompt, prompt: list[Turn], split: str) -> str:
    """Return the text of an answer, which is that of its last turn."""
    if isinstance(answer, str) or not answer:
        return answer or ""  # type: ignore[return-value]
    *before, last = answer
    if last["role"] != "assistant":
        raise UserError(f"an answer of {split} ends with a turn of {last['role']}; end it with a turn of assistant")
    if before and before != prompt:
        raise UserError(
            f"the turns before an answer of {split} are not those of its prompt; write the turn of the answer only"
        )
    return last["content"] if last["content"].strip() else ""


def split_by_prompt(examples: Dataset, column: str, size: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split off a number of examples, or a share below 1, rounded up to whole prompts.

    Raises:
        UserError: there is only one prompt.
    """
    keys = [json.dumps(value, sort_keys=True, default=str) for value in examples[column]]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    groups = np.array([numbers[key] for key in keys])
    if len(numbers) < 2:
        raise UserError("all examples have one prompt, which cannot be both train and validation; add other prompts")
    order = np.random.default_rng(seed).permutation(len(numbers))
    totals = np.cumsum(np.bincount(groups)[order])
    target = size * len(examples) if size < 1 else size
    count = min(int(np.searchsorted(totals, target)) + 1, len(numbers) - 1)
    is_held_out = np.isin(groups, order[:count])
    return examples.select(np.flatnonzero(~is_held_out)), examples.select(np.flatnonzero(is_held_out))
