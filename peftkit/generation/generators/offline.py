"""The offline generator: computed replies to the prompts of Self-Instruct, where no model is available."""

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from peftkit.generation.generators import GenerationPrompt, Reply, Request
from peftkit.generation.self_instruct import FORMATS, NOTHING, OUTPUT_FIRST, REQUESTED

NAME = "mini-writer"
CUT_SHARE, UNCLEAR_SHARE, WRONG_SHARE = 0.02, 0.01, 0.08  # of replies: cut off; neither yes nor no; with a faulty case


class TaskSource(Protocol):
    """The source of tasks; implemented by `peftkit.data.minitasks`."""

    def sample_instruction(self, draw: random.Random, shown: Sequence[str]) -> str: ...
    def has_labels(self, text: str) -> bool: ...
    def sample_cases(self, text: str, draw: random.Random) -> list[tuple[str, str]] | None: ...


class OfflineGenerator:
    """A substitute for a model: about thirty kinds of task in many wordings, with correct answers.

    A reply depends on its prompt and, for new instructions, on the request's seed. Some replies repeat earlier
    instructions, are cut or have errors, so that the filters are exercised.
    """

    takes_turns = has_likelihoods = False

    def __init__(self, tasks: TaskSource) -> None:
        self.tasks = tasks

    def replies(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        for request in requests:
            text, finish = self._reply(request.prompt, request.seed)
            yield [Reply(request.number, text, finish, len(request.prompt.text().split()), len(text.split()))]

    def _reply(self, prompt: GenerationPrompt, seed: int) -> tuple[str, str]:
        """Return the reply to a prompt, and how it finished."""
        if match := re.fullmatch(r"Task (\d+):", prompt.question):
            return self._instructions(prompt, int(match[1]), random.Random(seed))
        task = prompt.question.partition("Task: ")[2].split("\n")[0]
        if prompt.question.endswith("Classification:"):
            answer = " Yes" if self.tasks.has_labels(task) else " No"
            return (" It may be one." if random.Random(task).random() < UNCLEAR_SHARE else answer), "stop"
        return _format_cases(self._cases(task), prompt.opening.startswith(OUTPUT_FIRST)), "stop"

    def _instructions(self, prompt: GenerationPrompt, first: int, draw: random.Random) -> tuple[str, str]:
        shown = [example.partition(": ")[2] for example in prompt.examples]
        items = [self.tasks.sample_instruction(draw, shown) for _ in range(REQUESTED)]
        text = f" {items[0]}\n" + "\n".join(f"Task {first + n}: {item}" for n, item in enumerate(items[1:], 1))
        return (text[: -len(items[-1]) // 2], "length") if draw.random() < CUT_SHARE else (text, "stop")

    def _cases(self, task: str) -> list[tuple[str, str]] | None:
        """Return a task's cases, sometimes with a faulty one; the same task always has the same cases."""
        draw = random.Random(task)
        cases = self.tasks.sample_cases(task, draw)
        if cases is not None and draw.random() < WRONG_SHARE:
            given, answer = cases[0]
            cases.append((given, draw.choice([answer, given, ""])))
        return cases


def offline_revision(tasks: TaskSource) -> str:
    """Return twelve hex digits over samples of the output: versions with the same output have the same revision."""
    draw = random.Random(0)
    texts = [tasks.sample_instruction(draw, ()) for _ in range(500)]
    samples = [(text, tasks.has_labels(text), tasks.sample_cases(text, random.Random(text))) for text in texts]
    return hashlib.sha256(repr(samples).encode()).hexdigest()[:12]


def _format_cases(cases: Sequence[tuple[str, str]] | None, by_label: bool) -> str:
    """Return cases label first or input first, without the name of the first field; for an unknown task an apology."""
    if cases is None:
        return " I cannot do this."
    _, first, case = FORMATS[by_label]
    text = "".join(case.format(input=given or NOTHING, output=answer) for given, answer in cases)
    return text[len(first) + 1 : -1]
