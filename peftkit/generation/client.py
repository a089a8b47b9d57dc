"""Turn prompts into replies, each paid for once: what the journal holds is not asked again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from peftkit.config import Generate, UserError
from peftkit.generation.generators import GenerationPrompt, Generator, Reply, Request
from peftkit.generation.journal import Journal

REPLY_LIMITS = ("max_tokens", "max_completion_tokens")  # of generate.request, over ours
OVERHEAD = 64  # tokens that a chat's own marks may add to a prompt


class BudgetExceeded(Exception):
    """The run is at an end before its target; the message is the setting that ends it."""


@dataclass(frozen=True)
class Budget:
    """What a run may use: tokens read and written, and money, by prices of a million tokens."""

    max_tokens: int | None = None
    max_cost: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    longest_reply: int = 0  # tokens, where that is not the prompt's to say

    @classmethod
    def of(cls, settings: Generate) -> Budget:
        asked = (settings.request.get(name) for name in REPLY_LIMITS)
        longest = max((size for size in asked if isinstance(size, int)), default=0)
        return cls(settings.max_tokens, settings.max_cost, settings.price_in, settings.price_out, longest)

    @property
    def has_prices(self) -> bool:
        return self.price_in is not None or self.price_out is not None

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * (self.price_in or 0) + tokens_out * (self.price_out or 0)) / 1e6


class GenerationClient:
    """All that was asked in a run, and what it cost."""

    def __init__(self, generator: Generator, journal: Journal, ceilings: Budget, seed: int) -> None:
        self.generator, self.journal, self.ceilings, self.seed = generator, journal, ceilings, seed
        self.next = 0  # the number of the next request
        self.tokens_in = self.tokens_out = self.attempts = self.shortened = 0
        self._replies: dict[int, tuple[str, Reply]] = {}
        for row in journal.rows:
            for entry in row["replies"]:
                self._count(entry["prompt"], Reply(**{name: entry[name] for name in entry if name != "prompt"}))

    @property
    def requests(self) -> int:
        return len(self._replies)

    @property
    def cost(self) -> float:
        return self.ceilings.cost(self.tokens_in, self.tokens_out)

    def spent(self) -> dict[str, int]:
        """Return the requests that were answered, the attempts that they took, and their tokens."""
        return {
            "requests": self.requests, "attempts": self.attempts,
            "tokens_in": self.tokens_in, "tokens_out": self.tokens_out,
        }  # fmt: skip

    def __call__(self, prompts: Sequence[GenerationPrompt]) -> list[Reply]:
        """Return the replies in the order of the prompts, whichever came first.

        Raises:
            Ended: the next request could pass a ceiling.
        """
        requests = [
            Request(number, prompt, derive_seed(self.seed, number))
            for number, prompt in enumerate(prompts, start=self.next)
        ]
        marks = {request.number: request.prompt.fingerprint() for request in requests}
        for number, mark in marks.items():
            self._check(number, mark)
        while missing := [request for request in requests if request.number not in self._replies]:
            for group in self.generator.replies(self._affordable(missing)):
                rows = [{"prompt": marks[reply.number], **reply.row()} for reply in group]
                self.journal.append([{"replies": rows}])
                for reply in group:
                    self._count(marks[reply.number], reply)
            self.journal.sync()
        self.next += len(requests)
        return [self._replies[request.number][1] for request in requests]

    def _check(self, number: int, mark: str) -> None:
        if number in self._replies and self._replies[number][0] != mark:
            raise UserError(
                f"{self.journal.file}: reply {number} is to another prompt than this run sends; "
                "another version made it: begin again with force=true"
            )

    def _count(self, mark: str, reply: Reply) -> None:
        self._replies[reply.number] = (mark, reply)
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        self.attempts += reply.attempts
        self.shortened += bool(reply.dropped)

    def _affordable(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Return those that together cannot pass a ceiling: a token is at least one byte of a prompt."""
        tokens_in, tokens_out = self.tokens_in, self.tokens_out
        for place, request in enumerate(requests):
            tokens_in += len(request.prompt.text().encode()) + OVERHEAD
            tokens_out += max(request.prompt.max_new_tokens, self.ceilings.longest_reply)
            for name, used, limit in (
                ("max_tokens", tokens_in + tokens_out, self.ceilings.max_tokens),
                ("max_cost", self.ceilings.cost(tokens_in, tokens_out), self.ceilings.max_cost),
            ):
                if limit is not None and used > limit:
                    if place == 0:
                        raise BudgetExceeded(name)
                    return requests[:place]
        return requests


def derive_seed(seed: int, name: object) -> int:
    """Return the seed of one request, or of whatever else is drawn once: 31 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big") >> 1
