"""Turn the prompts of Self-Instruct into replies that are worked out, where no model that could write is at hand."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence

from peftkit.data.miniglue.lexicon import Words
from peftkit.generate.generators import Prompt, Reply, Request
from peftkit.generate.mini import instruction, understood
from peftkit.generate.prompts import NEW, NOTHING, OUTPUT_FIRST

NAME = "mini-writer"
CUT, UNCLEAR, WRONG = 0.02, 0.01, 0.08  # shares of replies that break off, say neither yes nor no, have a bad case


class Embedded:
    """A stand-in for a model: tasks of some thirty kinds, in many wordings, with cases whose answers are right.

    A reply follows from its prompt and, of new instructions, the seed of its request. As a model would, it repeats
    itself, breaks off and errs now and then, so that the filters have work.
    """

    def replies(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        for request in requests:
            text, finish = written(request.prompt, request.seed)
            read = request.prompt.text().split()
            yield [Reply(request.number, text, finish, len(read), len(text.split()))]


def written(prompt: Prompt, seed: int) -> tuple[str, str]:
    """Return what is written after a prompt, and how it ended."""
    question = prompt.question
    if match := re.fullmatch(r"Task (\d+):", question):
        return _new(prompt, int(match[1]), seed)
    asked = question.partition("Task: ")[2].split("\n")[0]
    draw = random.Random(asked)  # greedy: the same prompt has the same reply
    if question.endswith("Classification:"):
        return _kind(asked, draw), "stop"
    return _cases(asked, prompt.opening.startswith(OUTPUT_FIRST), draw), "stop"


def revision() -> str:
    """Return twelve hex digits over what it writes: another version that writes the same is the same."""
    draw = Words(random.Random(0), "all")
    texts = [instruction(draw, ()) for _ in range(500)]
    replies = [_cases(text, by_label, random.Random(text)) for text in texts for by_label in (False, True)]
    return hashlib.sha256(repr([texts, replies]).encode()).hexdigest()[:12]


def _new(prompt: Prompt, first: int, seed: int) -> tuple[str, str]:
    draw = Words(random.Random(seed), "all")
    shown = [example.partition(": ")[2] for example in prompt.examples]
    items = [instruction(draw, shown) for _ in range(NEW)]
    text = f" {items[0]}\n" + "\n".join(f"Task {first + place}: {item}" for place, item in enumerate(items[1:], 1))
    return (text[: -len(items[-1]) // 2], "length") if draw.chance(CUT) else (text, "stop")


def _kind(asked: str, draw: random.Random) -> str:
    if draw.random() < UNCLEAR:
        return " It may be one."
    known = understood(asked)
    return " Yes" if known is not None and known[0].labels else " No"


def _cases(asked: str, by_label: bool, draw: random.Random) -> str:
    """Write a task's cases, label first or input first; of work that is not known, none that is whole."""
    known = understood(asked)
    if known is None:
        return " I cannot do this."
    family, slots = known
    words = Words(draw, "all")
    labels = [family.labels[place % len(family.labels)] if family.labels else "" for place in range(family.instances)]
    found = [family.draw(words, {**slots, "label": label}) for label in labels]
    if words.chance(WRONG):
        found.append(words.random.choice([found[0], (found[0][0], found[0][0]), (found[0][0], "")]))
    pairs = [(given or NOTHING, answer) for given, answer in found]
    if by_label:
        return " " + "\nLabel: ".join(f"{answer}\nInput: {given}" for given, answer in pairs)
    return " " + "\nInput: ".join(f"{given}\nOutput: {answer}" for given, answer in pairs)
