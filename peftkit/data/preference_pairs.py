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
from peftkit.data.examples import SUBSET_SEED, ExampleReader, require_columns, subset

Prompt = str | list[Turn]  # a text, or the turns of a conversation


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
    """Return the prompt, what was chosen and what was rejected, each empty where there is nothing.

    Both answers become the text of one assistant's turn; where they are turns, the prompt is turns too. An answer may
    be the whole conversation: the prompt's turns come before its last then, as UltraFeedback has them.

    Raises:
        UserError: turns are no turns, an answer ends with no assistant's, or opens unlike the prompt.
    """
    prompt, *answers = (parse_prompt(value) for value in values)
    if not any(isinstance(answer, list) for answer in answers):
        return [prompt, *answers]
    asked: list[Turn] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) and prompt else list(prompt)  # type: ignore[arg-type]
    return [asked, *(_last(answer, asked, split) for answer in answers)]


def parse_prompt(cell: Any) -> Prompt:
    """Return a cell's text, or its turns; empty where there is nothing.

    Raises:
        UserError: it is a list of something else than turns.
    """
    if isinstance(cell, (list, tuple)):
        return parse_turns(cell)
    return "" if cell is None or not str(cell).strip() else str(cell)


def _last(answer: Prompt, asked: list[Turn], split: str) -> str:
    """Return the text of an answer's last turn, which alone is the answer."""
    if isinstance(answer, str) or not answer:
        return answer or ""  # type: ignore[return-value]
    *before, last = answer
    if last["role"] != "assistant":
        raise UserError(f"an answer of {split} ends with a turn of {last['role']}; end it with one of the assistant")
    if before and before != asked:
        raise UserError(
            f"the turns before an answer of {split} are not those of its prompt; write the answer's own turn alone"
        )
    return last["content"] if last["content"].strip() else ""


def split_by_prompt(rows: Dataset, column: str, size: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split so many rows off, or a share of them (below 1), all rows of a prompt together; a few more where need be.

    Raises:
        UserError: there is one prompt alone.
    """
    keys = [json.dumps(value, sort_keys=True, default=str) for value in rows[column]]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    of = np.array([numbers[key] for key in keys])
    if len(numbers) < 2:
        raise UserError("all rows have one prompt, which cannot be both train and validation; add rows of others")
    order = np.random.default_rng(seed).permutation(len(numbers))
    rows_by_then = np.cumsum(np.bincount(of)[order])
    wanted = size * len(rows) if size < 1 else size
    taken = min(int(np.searchsorted(rows_by_then, wanted)) + 1, len(numbers) - 1)
    held = np.isin(of, order[:taken])
    return rows.select(np.flatnonzero(~held)), rows.select(np.flatnonzero(held))
