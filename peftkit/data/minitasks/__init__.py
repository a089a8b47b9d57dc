"""Tasks with computed answers, made of miniglue's word lists: the tasks of the offline generator."""

from __future__ import annotations

import random
from collections.abc import Sequence

from peftkit.data.miniglue.lexicon import WordSampler
from peftkit.data.minitasks.families import FAMILIES, TaskFamily, parse_instruction
from peftkit.data.minitasks.wording import write_instruction

__all__ = ["FAMILIES", "TaskFamily", "sample_cases", "has_labels", "parse_instruction", "sample_instruction"]


def sample_instruction(draw: random.Random, shown: Sequence[str]) -> str:
    """Return an instruction; a few repeat one of the prompt's (`shown`) or have a fault that a filter rejects."""
    return write_instruction(WordSampler(draw, "all"), shown)


def has_labels(text: str) -> bool:
    """Return whether the answer to an instruction is one of a few labels."""
    known = parse_instruction(text)
    return known is not None and bool(known[0].labels)


def sample_cases(text: str, draw: random.Random) -> list[tuple[str, str]] | None:
    """Return (input, output) cases of an instruction, its labels in turn; None for an unknown instruction."""
    known = parse_instruction(text)
    if known is None:
        return None
    family, slots = known
    words = WordSampler(draw, "all")
    labels = [family.labels[place % len(family.labels)] if family.labels else "" for place in range(family.instances)]
    return [family.sample(words, {**slots, "label": label}) for label in labels]
