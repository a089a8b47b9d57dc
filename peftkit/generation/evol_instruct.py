"""Evol-Instruct: harder and rarer instructions from a pool, with an answer to each (Xu et al. 2023)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from peftkit.generation.client import GenerationClient
from peftkit.generation.filters import (
    Rejection,
    first_rejection,
    incomplete,
    normalize_text,
    only_apologizes,
    refused,
)
from peftkit.generation.generators import GenerationPrompt, Reply
from peftkit.generation.instruction_tasks import Instance, InstructionTask
from peftkit.generation.pool import Candidate, TaskPool, replies_to

# The prompts (section 3.2) in peftkit's wording
HEAD = "### Evolved task:"
IN_DEPTH = (
    "Below is a task for a language model. Make it somewhat harder, so that even a strong model must take care with "
    "it, while a person can still understand it and answer. {how} Whatever it holds beside words, as a table or code, "
    "stays in it. Add between ten and twenty words at most. Answer with the new task alone, and do not carry it out."
)
OPERATIONS = {
    "constraints": IN_DEPTH.format(how="Do so by one more condition or requirement that the answer must meet."),
    "deepening": IN_DEPTH.format(how="Do so by asking for more depth and breadth on what it asks about."),
    "concretising": IN_DEPTH.format(how="Do so by putting more special ideas in place of the general ones in it."),
    "reasoning": IN_DEPTH.format(
        how="If a few simple thoughts are enough for it, word it so that several steps of reasoning are asked for."
    ),
    "complicated_input": IN_DEPTH.format(
        how="Do so by giving data to work on, such as a table, JSON, XML, code, a formula, or a query."
    ),
    "breadth": (
        "Below is a task for a language model. Take it as a model for another, entirely new task: of the same field, "
        "but rarer, and about as long and as hard as this one. It must make sense, and a person must be able to answer "
        "it. Answer with the new task alone, and do not carry it out."
    ),
}
COMPARE = (
    "Below are two tasks for a language model. Do they ask for the same, in depth and in breadth, and under the same "
    "conditions? Answer Equal if so, else Different, and nothing more."
)
COMPARED = "### First task:\n{}\n\n### Second task:\n{}\n\n### Answer:"
# Elimination (section 3.3)
PROMPT_PHRASES = (
    "evolved task", "evolved instruction", "given task", "first task", "second task", "strong model", "###",
)  # fmt: skip
_STOP = (
    "a an and any are as at be been but by can could did do does for from had has have he her his i if in into is it "
    "its me my no nor not of on or our out she so than that the their them then there these they this those to too up "
    "us was we were what when where which who whom why will with would you your yes well"
)
STOP_WORDS = frozenset(_STOP.split())


def evol_instruct(pool: TaskPool, client: GenerationClient) -> Iterator[None]:
    """Evolve every task of the pool `generate.evolutions` times, one batch per round; yield after each round.

    An evolved task replaces its origin; where an evolution is eliminated, the origin is tried again in the next one.
    Every evolved task is kept.
    """
    batch = pool.settings.batch
    # the first input is part of the instruction that is evolved
    texts = ["\n\n".join(filter(None, (task.instruction, task.instances[0].input))) for task in pool.seeds]
    current = [replace(task, instruction=text) for task, text in zip(pool.seeds, texts, strict=True)]
    for evolution in range(1, pool.settings.evolutions + 1):
        for first in range(0, len(current), batch):
            current[first : first + batch] = _evolve(pool, client, current[first : first + batch], evolution)
            yield


def _evolve(
    pool: TaskPool, client: GenerationClient, tasks: Sequence[InstructionTask], evolution: int
) -> list[InstructionTask]:
    """Evolve each of a few tasks once; return the evolved ones, or their origins where they were eliminated."""
    settings = pool.settings
    evolved = {task.id: task for task in tasks}
    draws = [client.stream(f"draw {client.next_number + index}") for index in range(len(tasks))]
    operations = [draw.choice(list(OPERATIONS)) for draw in draws]
    prompts = [
        GenerationPrompt(
            opening=OPERATIONS[operation] + "\n",
            examples=(),
            question=f"### Task:\n{task.instruction}\n\n{HEAD}\n",
            stop=("### Task:",),
            max_new_tokens=settings.max_answer_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
        )
        for task, operation in zip(tasks, operations, strict=True)
    ]
    candidates = []
    for origin, operation, reply in zip(tasks, operations, client(prompts), strict=True):
        provenance = {"request": reply.number, "of": origin.id, "operation": operation, "evolution": evolution}
        text = reply.text.strip().removeprefix(HEAD).strip()
        if (fault := check_evolution(reply, text, origin.instruction)) is not None:
            pool.reject(Candidate(reply.text.strip(), provenance), fault)
        elif (rejection := pool.check(text)) is not None:
            pool.reject(Candidate(text, provenance), rejection)
        else:
            candidates.append(Candidate(text, provenance))
    different = _drop_equal(pool, client, evolved, candidates)
    prompts = [GenerationPrompt(c.instruction, (), "", ("### Task:",), settings.max_answer_tokens) for c in different]
    for candidate, reply in replies_to(client, different, prompts, "answer_request"):
        candidate.instances = [Instance("", reply.text.strip())]
        # another candidate of this round may have been kept with the same text in the meantime
        if (rejection := check_answer(reply) or pool.check_novelty(candidate.instruction)) is not None:
            pool.reject(candidate, rejection)
        elif (task := pool.keep(candidate)) is not None:
            evolved[candidate.provenance["of"]] = task
    return [*evolved.values()]


def _drop_equal(
    pool: TaskPool, client: GenerationClient, origins: Mapping[str, InstructionTask], candidates: Sequence[Candidate]
) -> list[Candidate]:
    """Return the candidates without those that the model finds equal to their origins."""
    pairs = [(origins[each.provenance["of"]].instruction, each.instruction) for each in candidates]
    prompts = [_comparison(*pair) for pair in pairs]
    different = []
    for candidate, reply in replies_to(client, candidates, prompts, "compare_request"):
        if (rejection := check_difference(reply)) is not None:
            pool.reject(candidate, rejection)
        else:
            different.append(candidate)
    return different


def _comparison(origin: str, evolved: str) -> GenerationPrompt:
    question = COMPARED.format(origin, evolved)
    return GenerationPrompt(COMPARE + "\n", (), question, ("\n###",), 8, choices=("Equal", "Different"))


def check_evolution(reply: Reply, text: str, origin: str) -> Rejection | None:
    """Return why the instruction in a reply is eliminated: unchanged, or a phrase of the prompt in it."""
    phrases = [phrase for phrase in PROMPT_PHRASES if phrase in text.lower() and phrase not in origin.lower()]
    return incomplete(reply) or first_rejection(
        ("empty_reply", not text, ""),
        ("unchanged", normalize_text(text) == normalize_text(origin), ""),
        ("words_of_the_prompt", phrases, "".join(phrases[:1])),
    )


def check_difference(reply: Reply) -> Rejection | None:
    """Return a rejection where the model finds both tasks equal; a reply without an answer counts as different."""
    is_equal = re.match(r"\W*(?:equal|the same)\b", reply.text, re.IGNORECASE)
    return first_rejection(("nothing_new", is_equal, reply.text.strip()[:80])) or refused(reply)


def check_answer(reply: Reply) -> Rejection | None:
    """Return why an answer is rejected: incomplete, empty, an apology, or without content."""
    text = reply.text.strip()
    words = re.findall(r"\w+", text.lower())
    return (
        incomplete(reply)
        or first_rejection(("empty_reply", not text, ""))
        or only_apologizes(text)
        or first_rejection(("says_nothing", STOP_WORDS.issuperset(words), text[:80]))
    )
