"""Turn the prompts of Self-Instruct into replies that are worked out, where no model that could write is at hand."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from peftkit.generation.generators import GenerationPrompt, Reply, Request
from peftkit.generation.self_instruct_prompts import NEW, NOTHING, OUTPUT_FIRST

NAME = "mini-writer"
CUT, UNCLEAR, WRONG = 0.02, 0.01, 0.08  # shares of replies that break off, say neither yes nor no, have a bad case


class TaskSource(Protocol):
    """What there is to write: `peftkit.data.minitasks`."""

    def sample_instruction(self, draw: random.Random, shown: Sequence[str]) -> str: ...
    def has_labels(self, text: str) -> bool: ...
    def sample_cases(self, text: str, draw: random.Random) -> list[tuple[str, str]] | None: ...


class OfflineGenerator:
    """A stand-in for a model: tasks of some thirty kinds, in many wordings, with cases whose answers are right.

    A reply follows from its prompt and, of new instructions, the seed of its request. As a model would, it repeats
    itself, breaks off and errs now and then, so that the filters have work.
    """

    def __init__(self, tasks: TaskSource) -> None:
        self.tasks = tasks

    def replies(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        for request in requests:
            text, finish = self._written(request.prompt, request.seed)
            read = request.prompt.text().split()
            yield [Reply(request.number, text, finish, len(read), len(text.split()))]

    def _written(self, prompt: GenerationPrompt, seed: int) -> tuple[str, str]:
        """Return what is written after a prompt, and how it ended."""
        if match := re.fullmatch(r"Task (\d+):", prompt.question):
            return self._new(prompt, int(match[1]), random.Random(seed))
        asked = prompt.question.partition("Task: ")[2].split("\n")[0]
        if prompt.question.endswith("Classification:"):
            return self._kind(asked), "stop"
        return _laid_out(self._cases(asked), prompt.opening.startswith(OUTPUT_FIRST)), "stop"

    def _new(self, prompt: GenerationPrompt, first: int, draw: random.Random) -> tuple[str, str]:
        shown = [example.partition(": ")[2] for example in prompt.examples]
        items = [self.tasks.sample_instruction(draw, shown) for _ in range(NEW)]
        text = f" {items[0]}\n" + "\n".join(f"Task {first + place}: {item}" for place, item in enumerate(items[1:], 1))
        return (text[: -len(items[-1]) // 2], "length") if draw.random() < CUT else (text, "stop")

    def _kind(self, asked: str) -> str:
        if random.Random(asked).random() < UNCLEAR:
            return " It may be one."
        return " Yes" if self.tasks.has_labels(asked) else " No"

    def _cases(self, asked: str) -> list[tuple[str, str]] | None:
        """Return a task's cases, now and then one more that is at fault: the same prompt has the same reply."""
        draw = random.Random(asked)
        found = self.tasks.sample_cases(asked, draw)
        if found is not None and draw.random() < WRONG:
            given, answer = found[0]
            found.append((given, draw.choice([answer, given, ""])))
        return found


def offline_revision(tasks: TaskSource) -> str:
    """Return twelve hex digits over what is written: another version that writes the same is the same."""
    draw = random.Random(0)
    texts = [tasks.sample_instruction(draw, ()) for _ in range(500)]
    told = [(text, tasks.has_labels(text), tasks.sample_cases(text, random.Random(text))) for text in texts]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:12]


def _laid_out(cases: Sequence[tuple[str, str]] | None, by_label: bool) -> str:
    """Write cases label first or input first; of work that nobody knows, none that is whole."""
    if cases is None:
        return " I cannot do this."
    pairs = [(given or NOTHING, answer) for given, answer in cases]
    if by_label:
        return " " + "\nLabel: ".join(f"{answer}\nInput: {given}" for given, answer in pairs)
    return " " + "\nInput: ".join(f"{given}\nOutput: {answer}" for given, answer in pairs)
