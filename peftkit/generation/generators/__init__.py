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

    Where the model's context is too short, examples are dropped from the start. For a chat model `turns` may replace
    the examples: earlier questions of the user, each with the assistant's answer.

    Args:
        prefix: how the reply begins, a part of the prompt.
        choices: the possible replies; a local model returns the likeliest, an endpoint generates.
        neutral: a question without content. The likelihood of each choice is divided by that after this question, which
            removes the preference of the model for one of them (Zhao et al. 2021, contextual calibration).
    """

    opening: str
    examples: tuple[str, ...]
    question: str
    stop: tuple[str, ...]
    max_new_tokens: int
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    turns: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    choices: tuple[str, ...] = ()
    neutral: str = ""

    def text(self, dropped: int = 0) -> str:
        turns = (text for turn in self.turns[dropped:] for text in turn)
        return "\n".join([self.opening, *self.examples[dropped:], *turns, self.question + self.prefix])

    def messages(self, dropped: int = 0) -> list[dict[str, str]]:
        """Return the prompt as turns of a chat, without the prefix; the opening stands in the first one."""
        turns = self.turns[dropped:]
        users = [*(question for question, _ in turns), "\n".join([*self.examples[dropped:], self.question])]
        users[0] = f"{self.opening}\n{users[0]}" if self.opening or self.examples else users[0]
        answers = [*(answer for _, answer in turns), None]
        contents = [text for pair in zip(users, answers, strict=True) for text in pair if text is not None]
        return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(contents)]

    def fingerprint(self) -> str:
        """Return eight hex digits over all fields; journals record them, so the names of the fields are part of it."""
        later = ("turns", "prefix", "choices", "neutral")  # journals of earlier versions lack them
        fields = {name: value for name, value in asdict(self).items() if value or name not in later}
        return hashlib.sha256(repr(fields).encode()).hexdigest()[:8]


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
    """A source of replies: a local model, an endpoint, or the offline generator.

    `takes_turns`: a prompt for it is a conversation that requests one text. `has_likelihoods`: it returns one of
    `GenerationPrompt.choices`.
    """

    takes_turns: bool
    has_likelihoods: bool

    def replies(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        """Yield replies in any order; those of one list were generated together and are journaled together.

        Raises:
            GeneratorError: the generator is unavailable.
            UserError: the settings have to change first.
        """
        ...
