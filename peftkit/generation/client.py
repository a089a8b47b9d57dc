"""The client of a generator: numbers and journals requests, counts tokens and cost, and enforces the budget."""

import json
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peftkit.config import Generate, Refusal, UserError
from peftkit.config.decoding import derive_seed
from peftkit.generation.generators import GenerationPrompt, Generator, Reply, Request

REPLY_LIMITS = ("max_tokens", "max_completion_tokens")  # fields of generate.request that override peftkit's limit
TEMPLATE_TOKENS = 64  # that a chat template may add to a prompt
USAGE = ("requests", "attempts", "tokens_in", "tokens_out", "shortened_prompts")


class BudgetExceeded(Exception):
    """The next request could exceed the budget; the message is the name of the setting."""


class Journal:
    """A durable, append-only jsonl file; a truncated last line is removed when it is opened.

    `rows` are those it had when opened. The lines of a replayed file follow from the journal of replies: a resumed run
    has to write the same ones again.
    """

    def __init__(self, file: Path, is_replayed: bool = False) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._handle = file.open("a+b")
        data = file.read_bytes()
        end = data.rfind(b"\n") + 1
        self._handle.truncate(end)
        self.sync()
        self.lines = [f"{line}\n" for line in data[:end].decode().split("\n")[:-1]]
        self.rows: list[dict[str, Any]] = []
        try:
            self.rows.extend(map(json.loads, self.lines))
        except json.JSONDecodeError as error:
            message = (
                f"{file}: line {len(self.rows) + 1} is damaged ({error.msg}); repair it, or start again with force=true"
            )
            raise UserError(Refusal(message, "force=true")) from error
        self._position = 0 if is_replayed else len(self.lines)

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Write the rows that the file does not have yet: flushed to the OS, and by `sync` to disk.

        Raises:
            UserError: a replayed file has another line at this position.
        """
        # one line per row: line breaks in its texts are escaped
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        old_lines = self.lines[self._position : self._position + len(lines)]
        for number, (old, new) in enumerate(zip(old_lines, lines, strict=False), start=self._position + 1):
            if old != new:
                message = (
                    f"{self.file}: line {number} does not follow from journal.jsonl: the folder was changed, or "
                    "another version of peftkit wrote it; start again with force=true"
                )
                raise UserError(Refusal(message, "force=true"))
        self._position += len(lines)
        self._handle.write("".join(lines[len(old_lines) :]).encode())
        self._handle.flush()

    def sync(self) -> None:
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        self._handle.close()

    def check_end(self) -> None:
        """Raise UserError where the file has more lines than were replayed, such as with a lower patience."""
        if self._position < len(self.lines):
            wrong = f"{self.file}: has more lines than these settings produce"
            raise UserError(Refusal(f"{wrong}; use the earlier settings, or force=true", "force=true"))


class GenerationClient:
    """Sends the prompts of one run; a request whose reply is in the journal is not sent again."""

    def __init__(self, generator: Generator, journal: Journal, settings: Generate, seed: int) -> None:
        self.generator, self.journal, self.settings, self.seed = generator, journal, settings, seed
        self.next_number = 0
        self.usage = Counter(dict.fromkeys(USAGE, 0))
        self._replies: dict[int, tuple[str, Reply]] = {}
        for row in journal.rows:
            self._add(row["replies"])

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
                message = (
                    f"{self.journal.file}: reply {number} belongs to another prompt than this run sends: another "
                    "version of peftkit wrote it, or other settings; start again with force=true"
                )
                raise UserError(Refusal(message, "force=true"))
        while missing := [request for request in requests if request.number not in self._replies]:
            for group in self.generator.replies(self._affordable(missing)):
                rows = [{"prompt": fingerprints[reply.number], **asdict(reply)} for reply in group]
                self.journal.append({"replies": rows})
                self._add(rows)
            self.journal.sync()
        self.next_number += len(requests)
        return [self._replies[request.number][1] for request in requests]

    def stream(self, name: str) -> random.Random:
        """Return a random stream that depends on the run's seed and this name."""
        return random.Random(derive_seed(self.seed, name))

    def costs(self) -> dict[str, Any]:
        """Return the usage and its cost, None without prices."""
        return {**self.usage, "cost": self._cost(self.usage["tokens_in"], self.usage["tokens_out"])}

    def _add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            reply = Reply(**{name: value for name, value in row.items() if name != "prompt"})
            self._replies[reply.number] = (row["prompt"], reply)
            counts = (1, reply.attempts, reply.tokens_in, reply.tokens_out, int(reply.dropped > 0))
            self.usage.update(dict(zip(USAGE, counts, strict=True)))

    def _affordable(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Return the first requests that together cannot exceed the budget: a token has at least a byte."""
        limits = [size for name in REPLY_LIMITS if isinstance(size := self.settings.request.get(name), int)]
        tokens_in, tokens_out = self.usage["tokens_in"], self.usage["tokens_out"]
        for count, request in enumerate(requests):
            tokens_in += len(request.prompt.text().encode()) + TEMPLATE_TOKENS
            tokens_out += max([request.prompt.max_new_tokens, *limits])
            used = {"max_tokens": tokens_in + tokens_out, "max_cost": self._cost(tokens_in, tokens_out) or 0}
            exceeded = [name for name in used if used[name] > (getattr(self.settings, name) or float("inf"))]
            if exceeded and count == 0:
                raise BudgetExceeded(exceeded[0])
            if exceeded:
                return requests[:count]
        return requests

    def _cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return the cost; None without prices, which are per million tokens."""
        prices = (self.settings.price_in, self.settings.price_out)
        cost = (tokens_in * (prices[0] or 0) + tokens_out * (prices[1] or 0)) / 1e6
        return None if prices == (None, None) else cost


def describe_costs(costs: Mapping[str, Any]) -> str:
    """Return the costs of `GenerationClient.costs` as a phrase."""
    money = "" if costs["cost"] is None else f", cost {costs['cost']:.4f}"
    return (
        f"{costs['requests']:,} requests, {costs['tokens_in']:,} tokens read, {costs['tokens_out']:,} generated{money}"
    )
