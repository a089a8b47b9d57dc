"""A generator in this process that answers from the scripted server's pool, and a pool to fill with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.grammar import instructions
from helpers.scripted_server import answer
from peftkit.cli import compose_config
from peftkit.config import Generate
from peftkit.generation.client import Budget, GenerationClient
from peftkit.generation.generators import Reply, Request
from peftkit.generation.journal import Journal, ReplayedJournal
from peftkit.generation.pool import TaskPool
from peftkit.generation.tasks import SEEDS, read_tasks

TEXTS = instructions(1500)
SETTINGS = Generate(**compose_config(["job=generate"]).generate)


class Scripted:
    """Replies in another order than they were asked for, where `backwards`; `changed` may put another reply in place."""

    def __init__(
        self, backwards: bool = False, changed: Any = lambda reply: reply, pool: Sequence[str] = TEXTS
    ) -> None:
        self.backwards, self.changed, self.pool = backwards, changed, list(pool)
        self.asked: list[int] = []

    def replies(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        for request in reversed(requests) if self.backwards else requests:
            self.asked.append(request.number)
            prompt = request.prompt.text()
            text = answer(prompt, request.seed, self.pool)
            yield [self.changed(Reply(request.number, text, "stop", len(prompt.split()), len(text.split())))]


def fill(folder: Path, algorithm: Any, generator: Any, **settings: Any) -> tuple[TaskPool, GenerationClient, str]:
    """Run an algorithm in a folder, as the job does; overlap=function and ceilings=Ceilings() are taken apart."""
    overlap = settings.pop("overlap", lambda texts: None)
    ceilings = settings.pop("ceilings", Budget())
    chosen = replace(SETTINGS, **{"num_instructions": 40, **settings})
    with (
        Journal(folder / "journal.jsonl") as journal,
        ReplayedJournal(folder / "kept.jsonl") as kept,
        ReplayedJournal(folder / "rejected.jsonl") as rejected,
    ):
        ask = GenerationClient(generator, journal, ceilings, seed=0)
        pool = TaskPool(read_tasks(SEEDS), chosen, overlap, kept, rejected)
        ended = algorithm(pool, ask, lambda: None)
        kept.check_end()
        rejected.check_end()
    return pool, ask, ended


def written(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.jsonl").read_bytes() for name in ("kept", "rejected")}
