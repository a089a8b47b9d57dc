"""Turn prompts into replies: what a local model and an endpoint have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

TRUNCATED = "the prompt was longer than the context and lost its start"


class GeneratorError(Exception):
    """The generator gives no reply, and will give none soon; the same command goes on where it stopped."""


@dataclass(frozen=True)
class GenerationPrompt:
    """What a model reads: an opening, worked examples, and the question at the end, which the reply goes on from.

    Examples are dropped from the first where a model's context is too short for all.
    """

    opening: str
    examples: tuple[str, ...]
    question: str
    stop: tuple[str, ...]
    max_new_tokens: int
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0

    def text(self, dropped: int = 0) -> str:
        return "\n".join([self.opening, *self.examples[dropped:], self.question])

    def fingerprint(self) -> str:
        """Return eight hex digits over all of it."""
        return hashlib.sha256(repr(asdict(self)).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Request:
    """A prompt, its number in the run, and the seed of its sampling, which follows from the number."""

    number: int
    prompt: GenerationPrompt
    seed: int


@dataclass(frozen=True)
class Reply:
    """What came back. `finish` is stop, or says why the text is not whole: length, content_filter, refused."""

    number: int
    text: str
    finish: str
    tokens_in: int
    tokens_out: int
    attempts: int = 1
    dropped: int = 0  # examples that the model's context had no room for
    note: str | None = None

    @property
    def is_cut(self) -> bool:
        """Tell whether the model did not read all of the question."""
        return self.note == TRUNCATED

    def row(self) -> dict[str, Any]:
        return asdict(self)


class Generator(Protocol):
    """A model, wherever it runs."""

    def replies(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        """Yield replies as they come, in any order; those of a list were made together, and are kept together.

        Raises:
            GeneratorError: there are no more to come.
            UserError: there would be, if the user mended something.
        """
        ...
