"""Prompts, requests and replies, and the protocol that local models and endpoints implement."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

TRUNCATED = "the prompt was longer than the context and was truncated at its start"  # a note of replies


class GeneratorError(Exception):
    """The generator is unavailable; the same command resumes the run later."""


@dataclass(frozen=True)
class GenerationPrompt:
    """An opening, worked examples and a question at the end, which the reply continues.

    Where the model's context is too short, examples are dropped from the start.
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
        """Return eight hex digits over all fields; journals record them, so the names of the fields are part of it."""
        return hashlib.sha256(repr(asdict(self)).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Request:
    """A prompt, its number in the run, and its sampling seed, which is derived from the number."""

    number: int
    prompt: GenerationPrompt
    seed: int


@dataclass(frozen=True)
class Reply:
    """The reply to a request. `finish` is stop, or the reason why the text is incomplete: length, refused, ..."""

    number: int
    text: str
    finish: str
    tokens_in: int
    tokens_out: int
    attempts: int = 1
    dropped: int = 0  # examples removed for lack of context
    note: str | None = None


class Generator(Protocol):
    """A source of replies: a local model, an endpoint, or the offline generator."""

    def replies(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        """Yield replies in any order; those of one list were generated together and are journaled together.

        Raises:
            GeneratorError: the generator is unavailable.
            UserError: the settings have to change first.
        """
        ...
