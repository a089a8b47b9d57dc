"""A generator in this process with the replies of the scripted server, and a pool to fill with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.commands import compose_config
from helpers.grammar import instructions
from helpers.scripted_server import answer
from peftkit.config import Generate
from peftkit.generation.client import GenerationClient, Journal
from peftkit.generation.generators import Reply, Request
from peftkit.generation.instruction_tasks import SEEDS, read_tasks
from peftkit.generation.pool import TaskPool, fill_pool

TEXTS = instructions(1500)
SETTINGS = Generate(**compose_config(["job=generate"]).generate)


class Scripted:
    """Replies in the order of the requests, or in reverse; `changed` may return another reply in place of each."""

    takes_turns = has_likelihoods = False

    def __init__(
        self, backwards: bool = False, changed: Any = lambda reply: reply, pool: Sequence[str] = TEXTS
    ) -> None:
        self.backwards, self.changed, self.pool = backwards, changed, list(pool)
        self.requested: list[int] = []

    def replies(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        for request in reversed(requests) if self.backwards else requests:
            self.requested.append(request.number)
            prompt = request.prompt.text()
            text = answer(prompt, request.seed, self.pool)
            yield [self.changed(Reply(request.number, text, "stop", len(prompt.split()), len(text.split())))]


def fill(folder: Path, algorithm: Any, generator: Any, **settings: Any) -> tuple[TaskPool, GenerationClient, str]:
    """Run an algorithm in a folder, as the job does; besides settings, takes overlap=function."""
    overlap = settings.pop("overlap", lambda texts: None)
    chosen = replace(SETTINGS, **{"num_instructions": 40, **settings})
    with (
        closing(Journal(folder / "journal.jsonl")) as journal,
        closing(Journal(folder / "kept.jsonl", is_replayed=True)) as kept,
        closing(Journal(folder / "rejected.jsonl", is_replayed=True)) as rejected,
    ):
        client = GenerationClient(generator, journal, chosen, seed=0)
        pool = TaskPool(read_tasks(SEEDS), chosen, overlap, kept, rejected)
        ended = fill_pool(pool, client, algorithm)
        kept.check_end()
        rejected.check_end()
    return pool, client, ended


def written(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.jsonl").read_bytes() for name in ("kept", "rejected")}
