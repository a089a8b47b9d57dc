"""Turn tasks into harder and rarer ones, evolution by evolution, with an answer to each."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from peftkit.generation import elimination
from peftkit.generation import evol_prompts as evolve_prompts
from peftkit.generation.client import BudgetExceeded, GenerationClient, derive_seed
from peftkit.generation.generators import GenerationPrompt
from peftkit.generation.parse import Rejection
from peftkit.generation.pool import Candidate, TaskPool, merge_first_input
from peftkit.generation.tasks import Instance, Task


def evol_instruct(pool: TaskPool, ask: GenerationClient, tell: Callable[[], None]) -> str:
    """Evolve every task of the pool, as often as the settings say (Xu et al. 2023); return the setting that ended it.

    A task that an evolution makes takes the place of the one that it was made of; one whose evolution is eliminated
    stays, and has another turn in the next. All that was made is kept.
    """
    settings, fruitless = pool.settings, 0
    current = [merge_first_input(task) for task in pool.seeds]
    try:
        for evolution in range(1, settings.evolutions + 1):
            for first in range(0, len(current), settings.batch):
                if pool.is_full:
                    return "target"
                if fruitless >= settings.patience:
                    return "patience"
                part = range(first, min(first + settings.batch, len(current)))
                made = _evolve(pool, ask, [current[place] for place in part], evolution)
                for place, task in zip(part, made, strict=True):
                    current[place] = task or current[place]
                pool.sync()
                fruitless = 0 if any(made) else fruitless + 1
                tell()
    except BudgetExceeded as end:
        return str(end)
    return "target" if pool.is_full else "evolutions"


def _evolve(pool: TaskPool, ask: GenerationClient, tasks: Sequence[Task], evolution: int) -> list[Task | None]:
    """Evolve each of a few tasks once; return what was kept, by the place of what it was made of."""
    settings = pool.settings
    like = GenerationPrompt("", (), "", (), settings.max_answer_tokens, settings.temperature, settings.top_p)
    drawn = [
        random.Random(derive_seed(ask.seed, f"draw {number}")).choice(list(evolve_prompts.OPERATIONS))
        for number in range(ask.next, ask.next + len(tasks))
    ]
    first = ask.next
    replies = ask(
        [evolve_prompts.evolution_prompt(task.instruction, name, like) for task, name in zip(tasks, drawn, strict=True)]
    )
    left: dict[int, Candidate] = {}
    for place, (task, operation, reply) in enumerate(zip(tasks, drawn, replies, strict=True)):
        made = {"request": first + place, "of": task.id, "operation": operation, "evolution": evolution}
        text = elimination.parse_evolution(reply, task.instruction)
        if isinstance(text, Rejection):
            pool.reject(Candidate(reply.text.strip(), made), text)
        else:
            _go_on(pool, left, place, Candidate(text, made), pool.fault(text))
    left = _check_news(pool, ask, tasks, left)
    return _answer(pool, ask, len(tasks), left)


def _check_news(
    pool: TaskPool, ask: GenerationClient, tasks: Sequence[Task], candidates: dict[int, Candidate]
) -> dict[int, Candidate]:
    left: dict[int, Candidate] = {}
    first = ask.next
    replies = ask(
        [evolve_prompts.comparison_prompt(tasks[place].instruction, c.instruction) for place, c in candidates.items()]
    )
    for number, ((place, candidate), reply) in enumerate(zip(candidates.items(), replies, strict=True), start=first):
        candidate.made["compare_request"] = number
        _go_on(pool, left, place, candidate, elimination.check_difference(reply))
    return left


def _answer(pool: TaskPool, ask: GenerationClient, count: int, candidates: dict[int, Candidate]) -> list[Task | None]:
    kept: list[Task | None] = [None] * count
    first = ask.next
    replies = ask(
        [evolve_prompts.answer_prompt(c.instruction, pool.settings.max_answer_tokens) for c in candidates.values()]
    )
    for number, ((place, candidate), reply) in enumerate(zip(candidates.items(), replies, strict=True), start=first):
        candidate.made["answer_request"] = number
        candidate.instances = [Instance("", reply.text.strip())]
        # another of this round may have become the same in the meantime
        fault = elimination.check_answer(reply) or pool.likeness(candidate.instruction)
        if fault is not None:
            pool.reject(candidate, fault)
        elif pool.keep(candidate):
            kept[place] = pool.kept[-1]
    return kept


def _go_on(
    pool: TaskPool, left: dict[int, Candidate], place: int, candidate: Candidate, fault: Rejection | None
) -> None:
    if fault is None:
        left[place] = candidate
    else:
        pool.reject(candidate, fault)
