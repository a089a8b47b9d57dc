"""Self-Instruct: new instructions from a pool, their type, their instances, and filters (Wang et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peftkit.generation import parse
from peftkit.generation import self_instruct_prompts as prompts
from peftkit.generation.client import GenerationClient
from peftkit.generation.filters import normalize_text
from peftkit.generation.generators import GenerationPrompt
from peftkit.generation.novelty import rouge_l
from peftkit.generation.pool import Candidate, TaskPool
from peftkit.generation.rejection import Rejection


def self_instruct(pool: TaskPool, client: GenerationClient) -> Iterator[None]:
    """Fill the pool round by round (section 2.2); yield after each.

    All requests of a round see the pool as it was at the start of the round, and their replies are processed in the
    order of the requests: what is kept does not depend on which reply arrives first.
    """
    settings = pool.settings
    sampling = GenerationPrompt("", (), "", (), settings.max_new_tokens, settings.temperature, settings.top_p)
    while True:
        requests = [
            prompts.new_tasks_prompt(pool.seeds, pool.kept, client.stream(f"draw {number}"), sampling)
            for number in range(client.next_number, client.next_number + settings.batch)
        ]
        candidates = _candidates(pool, client, requests)
        while candidates and not pool.is_full:
            candidates = _decide(pool, client, candidates)
        pool.undecided = len(candidates)
        yield


def _candidates(pool: TaskPool, client: GenerationClient, requests: Sequence[GenerationPrompt]) -> list[Candidate]:
    """Generate instructions, and reject those that fail on their own."""
    candidates = []
    for reply in client(requests):
        for place, item in enumerate(parse.parse_instructions(reply)):
            candidate = Candidate(item.text, {"request": reply.number, "place": place})
            if (rejection := item.rejection or pool.check(item.text)) is not None:
                pool.reject(candidate, rejection)
            else:
                candidates.append(candidate)
    return candidates


def _decide(pool: TaskPool, client: GenerationClient, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Keep or reject the first candidates, at most a batch; return the remaining ones."""
    batch, remaining = _take_dissimilar(pool, candidates)
    batch = _classify(pool, client, batch)
    replies = client(
        [
            prompts.instances_prompt(
                candidate.instruction,
                candidate.is_classification,
                pool.seeds,
                client.stream(f"instances {candidate.is_classification}"),
                pool.settings.max_answer_tokens,
            )
            for candidate in batch
        ]
    )
    for candidate, reply in zip(batch, replies, strict=True):
        candidate.provenance["instances_request"] = reply.number
        candidate.instances, rejections = parse.parse_instances(reply, candidate.is_classification)
        for rejection in rejections:
            pool.reject_instance(candidate, rejection)
        pool.keep(candidate)
    return remaining


def _take_dissimilar(pool: TaskPool, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """Return the first candidates that resemble neither the pool nor each other, and those that have to wait.

    A candidate that resembles one of the batch waits for its result: that one may turn out to have no valid instance.
    """
    batch: list[Candidate] = []
    remaining = []
    for candidate in candidates:
        if len(batch) == pool.settings.batch or any(_is_similar(candidate, other, pool) for other in batch):
            remaining.append(candidate)
        elif (rejection := pool.check_novelty(candidate.instruction)) is not None:
            pool.reject(candidate, rejection)
        else:
            batch.append(candidate)
    return batch, remaining


def _is_similar(candidate: Candidate, other: Candidate, pool: TaskPool) -> bool:
    one, two = candidate.instruction, other.instruction
    return rouge_l(one, two) >= pool.settings.max_rouge_l or normalize_text(one) == normalize_text(two)


def _classify(pool: TaskPool, client: GenerationClient, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates with whether each is a classification; reject those without a clear reply."""
    classified = []
    # the same examples for all: a server that caches prompts reads them once
    replies = client(
        [
            prompts.classification_prompt(candidate.instruction, pool.seeds, client.stream("type"))
            for candidate in candidates
        ]
    )
    for candidate, reply in zip(candidates, replies, strict=True):
        candidate.provenance["type_request"] = reply.number
        answer = parse.parse_yes_no(reply)
        if isinstance(answer, Rejection):
            pool.reject(candidate, answer)
        else:
            candidate.is_classification = answer
            classified.append(candidate)
    return classified
