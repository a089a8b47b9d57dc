"""Turn seeds into a growing pool of tasks: new instructions, whether each is a classification, instances, filters."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from peftkit.generation import parse, prompts
from peftkit.generation.client import Ended, GenerationClient, derive
from peftkit.generation.filters import plain
from peftkit.generation.generators import Prompt
from peftkit.generation.novelty import rouge_l
from peftkit.generation.pool import Candidate, Pool


def self_instruct(pool: Pool, ask: GenerationClient, tell: Callable[[], None]) -> str:
    """Fill the pool round by round (Wang et al. 2023, section 2.2); return the setting that ended it.

    All requests of a round see the pool as it was when the round began, and their replies are taken in the order of
    the requests: what is kept does not hang on which reply came first.
    """
    settings, fruitless = pool.settings, 0
    like = Prompt("", (), "", (), settings.max_new_tokens, settings.temperature, settings.top_p)
    try:
        while not pool.is_full:
            if fruitless >= settings.patience:
                return "patience"
            before = len(pool.kept)
            asked = [
                prompts.new_tasks(pool.seeds, pool.kept, random.Random(derive(ask.seed, f"draw {number}")), like)
                for number in range(ask.next, ask.next + settings.batch)
            ]
            candidates = _candidates(pool, ask, asked)
            while candidates and not pool.is_full:
                candidates = _settle(pool, ask, candidates)
            pool.undecided = len(candidates)
            pool.sync()
            fruitless = 0 if len(pool.kept) > before else fruitless + 1
            tell()
    except Ended as end:
        return str(end)
    return "target"


def _candidates(pool: Pool, ask: GenerationClient, asked: Sequence[Prompt]) -> list[Candidate]:
    """Ask for instructions, and reject those that are at fault by themselves."""
    found = []
    for number, reply in enumerate(ask(asked), start=ask.next - len(asked)):
        for place, item in enumerate(parse.instructions(reply)):
            candidate = Candidate(item.text, {"request": number, "place": place})
            if (fault := item.fault or pool.fault(item.text)) is not None:
                pool.reject(candidate, fault)
            else:
                found.append(candidate)
    return found


def _settle(pool: Pool, ask: GenerationClient, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Keep or reject the first candidates, as many as a round has requests; return those whose turn is to come."""
    now, later = _apart(pool, candidates)
    now = _typed(pool, ask, now)
    first = ask.next
    replies = ask(
        [
            prompts.instances(
                candidate.instruction,
                candidate.is_classification,
                pool.seeds,
                random.Random(derive(ask.seed, f"instances {candidate.is_classification}")),
                pool.settings.max_answer_tokens,
            )
            for candidate in now
        ]
    )
    for number, (candidate, reply) in enumerate(zip(now, replies, strict=True), start=first):
        candidate.made["instances_request"] = number
        candidate.instances, faults = parse.cases(reply, candidate.is_classification)
        for fault in faults:
            pool.reject_instance(candidate, fault)
        pool.keep(candidate)
    return later


def _apart(pool: Pool, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
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


def _is_near(candidate: Candidate, other: Candidate, pool: Pool) -> bool:
    said, known = candidate.instruction, other.instruction
    return rouge_l(said, known) >= pool.settings.max_rouge_l or plain(said) == plain(known)


def _typed(pool: Pool, ask: GenerationClient, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Ask of each candidate whether it is a classification; reject those of which no answer comes."""
    first, typed = ask.next, []
    # the same examples for all: a server that caches prompts reads them once
    replies = ask(
        [
            prompts.is_classification(candidate.instruction, pool.seeds, random.Random(derive(ask.seed, "type")))
            for candidate in candidates
        ]
    )
    for number, (candidate, reply) in enumerate(zip(candidates, replies, strict=True), start=first):
        candidate.made["type_request"] = number
        answer = parse.yes_or_no(reply)
        if isinstance(answer, parse.Fault):
            pool.reject(candidate, answer)
        else:
            candidate.is_classification = answer
            typed.append(candidate)
    return typed
