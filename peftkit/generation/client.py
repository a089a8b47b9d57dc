"""The client of a generator: numbers and journals requests, counts tokens and cost, and enforces the budget."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from peftkit.config import Generate, UserError
from peftkit.generation.generators import GenerationPrompt, Generator, Reply, Request
from peftkit.generation.journal import Journal

REPLY_LIMITS = ("max_tokens", "max_completion_tokens")  # fields of generate.request that override our own
OVERHEAD = 64  # tokens that a chat template may add to a prompt
USAGE = ("requests", "attempts", "tokens_in", "tokens_out", "shortened_prompts")


class BudgetExceeded(Exception):
    """The next request could exceed the budget; the message is the name of the setting."""


@dataclass(frozen=True)
class Budget:
    """How many tokens, read and written, and how much money a run may use; prices are per million tokens."""

    max_tokens: int | None = None
    max_cost: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    longest_reply: int = 0  # tokens, where generate.request overrides the prompt's limit

    @classmethod
    def from_settings(cls, settings: Generate) -> Budget:
        limits = [size for name in REPLY_LIMITS if isinstance(size := settings.request.get(name), int)]
        prices = (settings.price_in, settings.price_out)
        return cls(settings.max_tokens, settings.max_cost, *prices, longest_reply=max(limits, default=0))

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return the cost; None without prices."""
        if self.price_in is None and self.price_out is None:
            return None
        return (tokens_in * (self.price_in or 0) + tokens_out * (self.price_out or 0)) / 1e6

    def exceeded(self, tokens_in: int, tokens_out: int) -> str | None:
        """Return the setting that so many tokens would exceed."""
        if self.max_tokens is not None and tokens_in + tokens_out > self.max_tokens:
            return "max_tokens"
        cost = self.cost(tokens_in, tokens_out)
        return "max_cost" if self.max_cost is not None and (cost or 0) > self.max_cost else None


class GenerationClient:
    """Sends the prompts of one run; a request whose reply is in the journal is not sent again."""

    def __init__(self, generator: Generator, journal: Journal, budget: Budget, seed: int) -> None:
        self.generator, self.journal, self.budget, self.seed = generator, journal, budget, seed
        self.next_number = 0
        self.usage: Counter[str] = Counter()  # by names of USAGE
        self._replies: dict[int, tuple[str, Reply]] = {}
        for row in journal.rows:
            for entry in row["replies"]:
                self._add(entry["prompt"], Reply(**{name: entry[name] for name in entry if name != "prompt"}))

    def __call__(self, prompts: Sequence[GenerationPrompt]) -> list[Reply]:
        """Return the replies in the order of the prompts.

        Raises:
            BudgetExceeded: the next request could exceed the budget.
            UserError: the journal has a reply to another prompt.
        """
        requests = [
            Request(number, prompt, derive_seed(self.seed, number))
            for number, prompt in enumerate(prompts, start=self.next_number)
        ]
        fingerprints = {request.number: request.prompt.fingerprint() for request in requests}
        for number, fingerprint in fingerprints.items():
            if self._replies.get(number, (fingerprint,))[0] != fingerprint:
                raise UserError(
                    f"{self.journal.file}: reply {number} belongs to another prompt than this run sends: another "
                    "version of peftkit wrote it, or other settings; start again with force=true"
                )
        while missing := [request for request in requests if request.number not in self._replies]:
            for group in self.generator.replies(self._affordable(missing)):
                rows = [{"prompt": fingerprints[reply.number], **asdict(reply)} for reply in group]
                self.journal.append({"replies": rows})
                for reply in group:
                    self._add(fingerprints[reply.number], reply)
            self.journal.sync()
        self.next_number += len(requests)
        return [self._replies[request.number][1] for request in requests]

    def stream(self, name: str) -> random.Random:
        """Return a random stream that depends on the run's seed and this name."""
        return random.Random(derive_seed(self.seed, name))

    def costs(self) -> dict[str, Any]:
        """Return the usage and its cost, None without prices."""
        counts = {name: self.usage[name] for name in USAGE}
        return {**counts, "cost": self.budget.cost(counts["tokens_in"], counts["tokens_out"])}

    def _add(self, fingerprint: str, reply: Reply) -> None:
        self._replies[reply.number] = (fingerprint, reply)
        counts = (1, reply.attempts, reply.tokens_in, reply.tokens_out, int(reply.dropped > 0))
        self.usage.update(dict(zip(USAGE, counts, strict=True)))

    def _affordable(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Return the first requests that together cannot exceed the budget: a token has at least a byte."""
        tokens_in, tokens_out = self.usage["tokens_in"], self.usage["tokens_out"]
        for count, request in enumerate(requests):
            tokens_in += len(request.prompt.text().encode()) + OVERHEAD
            tokens_out += max(request.prompt.max_new_tokens, self.budget.longest_reply)
            if (setting := self.budget.exceeded(tokens_in, tokens_out)) is not None:
                if count == 0:
                    raise BudgetExceeded(setting)
                return requests[:count]
        return requests


def describe_costs(costs: Mapping[str, Any]) -> str:
    """Return the costs of `GenerationClient.costs` as a phrase."""
    money = "" if costs["cost"] is None else f", cost {costs['cost']:.4f}"
    return f"{costs['requests']:,} requests, {costs['tokens_in']:,} tokens read, {costs['tokens_out']:,} written{money}"


def derive_seed(seed: int, name: object) -> int:
    """Return a seed of 31 bits for one request, or for one random stream."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big") >> 1
