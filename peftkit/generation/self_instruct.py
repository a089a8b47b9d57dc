"""Turn seeds into a growing pool of tasks: new instructions, whether each is a classification, instances, filters."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from peftkit.generation import parse, self_instruct_prompts
from peftkit.generation.client import BudgetExceeded, GenerationClient, derive_seed
from peftkit.generation.filters import normalize_text
from peftkit.generation.generators import GenerationPrompt
from peftkit.generation.novelty import rouge_l
from peftkit.generation.pool import Candidate, TaskPool


def self_instruct(pool: TaskPool, ask: GenerationClient, tell: Callable[[], None]) -> str:
    """Fill the pool round by round (Wang et al. 2023, section 2.2); return the setting that ended it.

    All requests of a round see the pool as it was when the round began, and their replies are taken in the order of
    the requests: what is kept does not hang on which reply came first.
    """
    settings, fruitless = pool.settings, 0
    like = GenerationPrompt("", (), "", (), settings.max_new_tokens, settings.temperature, settings.top_p)
    try:
        while not pool.is_full:
            if fruitless >= settings.patience:
                return "patience"
            before = len(pool.kept)
            asked = [
                self_instruct_prompts.new_tasks_prompt(
                    pool.seeds, pool.kept, random.Random(derive_seed(ask.seed, f"draw {number}")), like
                )
                for number in range(ask.next, ask.next + settings.batch)
            ]
            candidates = _candidates(pool, ask, asked)
            while candidates and not pool.is_full:
                candidates = _settle(pool, ask, candidates)
            pool.undecided = len(candidates)
            pool.sync()
            fruitless = 0 if len(pool.kept) > before else fruitless + 1
            tell()
    except BudgetExceeded as end:
        return str(end)
    return "target"


def _candidates(pool: TaskPool, ask: GenerationClient, asked: Sequence[GenerationPrompt]) -> list[Candidate]:
    """Ask for instructions, and reject those that are at fault by themselves."""
    found = []
    for number, reply in enumerate(ask(asked), start=ask.next - len(asked)):
        for place, item in enumerate(parse.parse_instructions(reply)):
            candidate = Candidate(item.text, {"request": number, "place": place})
            if (fault := item.fault or pool.fault(item.text)) is not None:
                pool.reject(candidate, fault)
            else:
                found.append(candidate)
    return found


def _settle(pool: TaskPool, ask: GenerationClient, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Keep or reject the first candidates, as many as a round has requests; return those whose turn is to come."""
    now, later = _apart(pool, candidates)
    now = _typed(pool, ask, now)
    first = ask.next
    replies = ask(
        [
            self_instruct_prompts.instances_prompt(
                candidate.instruction,
                candidate.is_classification,
                pool.seeds,
                random.Random(derive_seed(ask.seed, f"instances {candidate.is_classification}")),
                pool.settings.max_answer_tokens,
            )
            for candidate in now
        ]
    )
    for number, (candidate, reply) in enumerate(zip(now, replies, strict=True), start=first):
        candidate.made["instances_request"] = number
        candidate.instances, faults = parse.parse_instances(reply, candidate.is_classification)
        for fault in faults:
            pool.reject_instance(candidate, fault)
        pool.keep(candidate)
    return later


def _apart(pool: TaskPool, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """Part the first candidates that are unlike all that is kept, and unlike each other, from those that must wait.

    One that is like another waits for it: that one may still turn out to have no good instance.
    """
    now: list[Candidate] = []
    later = []
    for candidate in candidates:
        if len(now) == pool.settings.batch or any(_is_near(candidate, other, pool) for other in now):
            later.append(candidate)
        elif (fault := pool.likeness(candidate.instruction)) is not None:
            pool.reject(candidate, fault)
        else:
            now.append(candidate)
    return now, later


def _is_near(candidate: Candidate, other: Candidate, pool: TaskPool) -> bool:
    said, known = candidate.instruction, other.instruction
    return rouge_l(said, known) >= pool.settings.max_rouge_l or normalize_text(said) == normalize_text(known)


def _typed(pool: TaskPool, ask: GenerationClient, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Ask of each candidate whether it is a classification; reject those of which no answer comes."""
    first, typed = ask.next, []
    # the same examples for all: a server that caches prompts reads them once
    replies = ask(
        [
            self_instruct_prompts.classification_prompt(
                candidate.instruction, pool.seeds, random.Random(derive_seed(ask.seed, "type"))
            )
            for candidate in candidates
        ]
    )
    for number, (candidate, reply) in enumerate(zip(candidates, replies, strict=True), start=first):
        candidate.made["type_request"] = number
        answer = parse.parse_yes_no(reply)
        if isinstance(answer, parse.Rejection):
            pool.reject(candidate, answer)
        else:
            candidate.is_classification = answer
            typed.append(candidate)
    return typed
