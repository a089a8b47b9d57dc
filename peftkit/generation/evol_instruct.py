"""Evol-Instruct: harder and rarer instructions out of a pool, with an answer to each (Xu et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peftkit.generation import elimination, evol_prompts
from peftkit.generation.client import GenerationClient
from peftkit.generation.generators import GenerationPrompt
from peftkit.generation.pool import Candidate, TaskPool, merge_first_input
from peftkit.generation.rejection import Rejection
from peftkit.generation.tasks import Instance, Task

Candidates = dict[int, Candidate]  # by the position of their origin in the round


def evol_instruct(pool: TaskPool, client: GenerationClient) -> Iterator[None]:
    """Evolve every task of the pool `generate.evolutions` times, a batch a round; yield after each round.

    An evolved task replaces its origin; where an evolution is eliminated, the origin is tried again in the next one.
    Every evolved task is kept.
    """
    settings = pool.settings
    current = [merge_first_input(task) for task in pool.seeds]
    for evolution in range(1, settings.evolutions + 1):
        for first in range(0, len(current), settings.batch):
            batch = current[first : first + settings.batch]
            current[first : first + settings.batch] = _evolve(pool, client, batch, evolution)
            yield


def _evolve(pool: TaskPool, client: GenerationClient, tasks: Sequence[Task], evolution: int) -> list[Task]:
    """Evolve each of a few tasks once; return the evolved ones, or their origins where they were eliminated."""
    settings = pool.settings
    sampling = GenerationPrompt("", (), "", (), settings.max_answer_tokens, settings.temperature, settings.top_p)
    operations = [
        client.stream(f"draw {number}").choice(list(evol_prompts.OPERATIONS))
        for number in range(client.next_number, client.next_number + len(tasks))
    ]
    prompts = [
        evol_prompts.evolution_prompt(task.instruction, operation, sampling)
        for task, operation in zip(tasks, operations, strict=True)
    ]
    candidates: Candidates = {}
    for place, reply in enumerate(client(prompts)):
        origin, operation = tasks[place], operations[place]
        provenance = {"request": reply.number, "of": origin.id, "operation": operation, "evolution": evolution}
        text = elimination.parse_evolution(reply, origin.instruction)
        if isinstance(text, Rejection):
            pool.reject(Candidate(reply.text.strip(), provenance), text)
        elif (rejection := pool.check(text)) is not None:
            pool.reject(Candidate(text, provenance), rejection)
        else:
            candidates[place] = Candidate(text, provenance)
    _eliminate_equal(pool, client, tasks, candidates)
    return [*({**dict(enumerate(tasks)), **_answer(pool, client, candidates)}).values()]


def _eliminate_equal(pool: TaskPool, client: GenerationClient, tasks: Sequence[Task], candidates: Candidates) -> None:
    """Remove the candidates that the model finds equal to their origins."""
    prompts = [
        evol_prompts.comparison_prompt(tasks[place].instruction, c.instruction) for place, c in candidates.items()
    ]
    for place, reply in zip(list(candidates), client(prompts), strict=True):
        candidates[place].provenance["compare_request"] = reply.number
        if (rejection := elimination.check_difference(reply)) is not None:
            pool.reject(candidates.pop(place), rejection)


def _answer(pool: TaskPool, client: GenerationClient, candidates: Candidates) -> dict[int, Task]:
    """Generate the answers, and keep the candidates whose answer is valid."""
    length, kept = pool.settings.max_answer_tokens, {}
    prompts = [evol_prompts.answer_prompt(candidate.instruction, length) for candidate in candidates.values()]
    for (place, candidate), reply in zip(candidates.items(), client(prompts), strict=True):
        candidate.provenance["answer_request"] = reply.number
        candidate.instances = [Instance("", reply.text.strip())]
        # another candidate of this round may have been kept with the same text in the meantime
        rejection = elimination.check_answer(reply) or pool.check_novelty(candidate.instruction)
        if rejection is not None:
            pool.reject(candidate, rejection)
        elif (task := pool.keep(candidate)) is not None:
            kept[place] = task
    return kept
