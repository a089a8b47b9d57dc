"""Self-Instruct: new instructions from a pool, their type, and their instances (Wang et al. 2023, section 2.2)."""

import random
import re
from collections.abc import Iterator, Sequence

from peftkit.config import Generate
from peftkit.generation import chat_prompts
from peftkit.generation.client import GenerationClient
from peftkit.generation.filters import Rejection, first_rejection, incomplete, refused
from peftkit.generation.generators import GenerationPrompt, Reply
from peftkit.generation.instruction_tasks import Instance, InstructionTask, one_line
from peftkit.generation.novelty import NoveltyIndex
from peftkit.generation.pool import Candidate, TaskPool, replies_to

FROM_SEEDS, FROM_GENERATED, REQUESTED = 6, 2, 8  # tasks shown, and tasks requested
CLASSIFICATIONS, OTHERS = 12, 19  # example tasks that are classifications, and that are not
WORKED_TASKS, MAX_WORKED_WORDS = 6, 120  # example tasks with instances; words of each
NOTHING = "none"  # the input of an instruction that needs none

# The prompts (appendix A of the paper) in peftkit's wording
NEW_TASKS = (
    "This is a list of {count} tasks for a language model. No two are alike: each asks for another kind of work, about "
    "another matter, in other words. Some are questions and some are orders; some want one of a few labels, some a "
    "line, some a whole text. Each can be done by reading and writing alone, and each is said in one or two sentences."
)
CLASSIFY = (
    "A classification task has a small set of possible answers that is known before its input is read. "
    "Of each task below it is said whether it is one, Yes or No."
)
INPUT_FIRST = (
    "Each task below is followed by cases of it: an input, and the output that does the task well. "
    f"Where the instruction says all that is needed, the input is: {NOTHING}"
)
OUTPUT_FIRST = (
    "Each classification task below is followed by cases of it: first one of its labels, then an input that has this "
    "label. Every label of a task has its turn."
)
FORMATS = {  # by whether the task is a classification: the opening, the first field, and an instance
    True: (OUTPUT_FIRST, "Label", "Label: {output}\nInput: {input}\n"),
    False: (INPUT_FIRST, "Input", "Input: {input}\nOutput: {output}\n"),
}
ITEM = re.compile(
    r"(?:^|\n)[ \t]*(?:[*_#]{1,3}[ \t]*)?(?:Task[ \t]+\d+[ \t]*[:.)]|\d+[.)](?=[ \t]))[*_]{0,3}[ \t]*", re.IGNORECASE
)
FIELD = re.compile(r"^[ \t]*[*_]{0,2}(Input|Output|Label)[*_]{0,2}[ \t]*:[*_]{0,2}[ \t]*", re.IGNORECASE | re.MULTILINE)
EMPTY = {NOTHING, "", "n/a", "<noinput>", "no input", "(none)", "none."}


def self_instruct(pool: TaskPool, client: GenerationClient) -> Iterator[None]:
    """Fill the pool round by round; yield after each.

    All requests of a round use the pool at the start of the round, and their replies are processed in the
    order of the requests: what is kept does not depend on which reply arrives first.
    """
    while True:
        by_turns, settings = client.generator.takes_turns, pool.settings
        draws = [client.stream(f"draw {client.next_number + index}") for index in range(settings.batch)]
        if by_turns:
            requests = chat_prompts.new_task_prompts(pool.seeds, draws, settings)
        else:
            requests = [new_tasks_prompt(pool.seeds, pool.kept, draw, settings) for draw in draws]
        candidates = []
        for request, reply in zip(requests, client(requests), strict=True):
            found = [chat_prompts.parse_new_task(reply, request)] if by_turns else parse_instructions(reply)
            for index, (text, fault) in enumerate(found):
                candidate = Candidate(text, {"request": reply.number, "place": index})
                if (rejection := fault or pool.check(text)) is not None:
                    pool.reject(candidate, rejection)
                else:
                    candidates.append(candidate)
        while candidates and not pool.is_full:
            candidates = _process_batch(pool, client, candidates)
        pool.unprocessed = len(candidates)
        yield


def _process_batch(pool: TaskPool, client: GenerationClient, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Keep or reject the first candidates, at most a batch; return the remaining ones."""
    batch, remaining = _take_dissimilar(pool, candidates)
    by_turns = client.generator.takes_turns
    # the same examples for all: they are read once, also by a server that caches prompts
    shown = classification_examples(pool.seeds, client.stream("type"))
    to_prompt = chat_prompts.classification_turns if by_turns else classification_prompt
    prompts = [to_prompt(each.instruction, shown) for each in batch]
    classified = []
    for candidate, reply in replies_to(client, batch, prompts, "type_request"):
        answer = parse_yes_no(reply)
        if isinstance(answer, Rejection):
            pool.reject(candidate, answer)
        else:
            candidate.is_classification = answer
            classified.append(candidate)
    if by_turns:
        chat_prompts.add_instances(pool, client, classified)
    else:
        _add_instances(pool, client, classified)
    for candidate in classified:
        pool.keep(candidate)
    return remaining


def _add_instances(pool: TaskPool, client: GenerationClient, candidates: Sequence[Candidate]) -> None:
    """Set the instances of candidates; those that are faulty are recorded in the pool."""
    prompts = [
        instances_prompt(
            each.instruction,
            each.is_classification,
            pool.seeds,
            client.stream(f"instances {each.is_classification}"),
            pool.settings.max_answer_tokens,
        )
        for each in candidates
    ]
    for candidate, reply in replies_to(client, candidates, prompts, "instances_request"):
        candidate.instances, rejections = parse_instances(reply, candidate.is_classification)
        for rejection in rejections:
            pool.reject(candidate, rejection, "instance")


def _take_dissimilar(pool: TaskPool, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """Return the first candidates that resemble neither the pool nor each other, and the deferred ones.

    A candidate that resembles one of the batch is deferred, since that one may have no valid instance.
    """
    batch: list[Candidate] = []
    remaining = []
    index = NoveltyIndex(pool.settings.max_rouge_l)
    for candidate in candidates:
        text = candidate.instruction
        if len(batch) == pool.settings.batch or index.describe_similar(text) is not None:
            remaining.append(candidate)
        elif (rejection := pool.check_novelty(text)) is not None:
            pool.reject(candidate, rejection)
        else:
            batch.append(candidate)
            index.add(text)
    return batch, remaining


def new_tasks_prompt(
    seeds: Sequence[InstructionTask], kept: Sequence[InstructionTask], draw: random.Random, settings: Generate
) -> GenerationPrompt:
    """Return the prompt for eight new instructions after eight existing ones: six seeds and two kept tasks, if any."""
    generated = draw.sample(list(kept), min(FROM_GENERATED, len(kept)))
    count = min(FROM_SEEDS + FROM_GENERATED - len(generated), len(seeds))
    shown = [*draw.sample(list(seeds), count), *generated]
    draw.shuffle(shown)
    return GenerationPrompt(
        opening=NEW_TASKS.format(count=len(shown) + REQUESTED) + "\n",
        examples=tuple(f"Task {number}: {one_line(task.instruction)}" for number, task in enumerate(shown, start=1)),
        question=f"Task {len(shown) + 1}:",
        stop=(f"Task {len(shown) + REQUESTED + 1}:",),
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
    )


def classification_examples(seeds: Sequence[InstructionTask], draw: random.Random) -> list[InstructionTask]:
    """Return 12 seeds that are classifications and 19 that are not, or all there are, in random order."""
    yes = [task for task in seeds if task.is_classification]
    no = [task for task in seeds if not task.is_classification]
    shown = draw.sample(yes, min(CLASSIFICATIONS, len(yes))) + draw.sample(no, min(OTHERS, len(no)))
    draw.shuffle(shown)
    return shown


def classification_prompt(instruction: str, shown: Sequence[InstructionTask]) -> GenerationPrompt:
    """Return the prompt for whether an instruction is a classification, after examples."""
    return GenerationPrompt(
        opening=CLASSIFY + "\n",
        examples=tuple(
            f"Task: {one_line(task.instruction)}\nClassification: {'Yes' if task.is_classification else 'No'}\n"
            for task in shown
        ),
        question=f"Task: {instruction}\nClassification:",
        stop=("\nTask:",),
        max_new_tokens=8,
    )


def instances_prompt(
    instruction: str, by_label: bool, seeds: Sequence[InstructionTask], draw: random.Random, length: int
) -> GenerationPrompt:
    """Return the prompt for instances: label first for classifications (else all would have one label)."""
    opening, first, case = FORMATS[by_label]
    worked = [
        f"Task: {one_line(task.instruction)}\n"
        + "".join(case.format(input=each.input or NOTHING, output=each.output) for each in task.instances[:3])
        for task in seeds
        if task.is_classification == by_label
    ]
    short = [text for text in worked if len(text.split()) <= MAX_WORKED_WORDS] or worked
    return GenerationPrompt(
        opening=opening + "\n",
        examples=tuple(draw.sample(short, min(WORKED_TASKS, len(short)))),
        question=f"Task: {instruction}\n{first}:",
        stop=("\nTask:",),
        max_new_tokens=length,
    )


def parse_instructions(reply: Reply) -> list[tuple[str, Rejection | None]]:
    """Return the instructions of a reply; those beyond the requested number, and a cut last one, are rejected."""
    cut = incomplete(reply)
    texts = [text for item in ITEM.split(reply.text) if (text := one_line(item))]
    if not texts:
        return [("", cut or Rejection("empty_reply"))]
    last = len(texts) - 1
    return [
        (
            text,
            (cut if index == last else None)
            or first_rejection(  # "Here are eight more:", as chat models begin
                ("preamble", index == 0 < last and text.endswith(":"), ""), ("not_asked_for", index >= REQUESTED, "")
            ),
        )
        for index, text in enumerate(texts)
    ]


def parse_yes_no(reply: Reply) -> bool | Rejection:
    """Return the answer to whether a task is a classification."""
    answer = re.match(r"\W*(?:classification\W+)?(yes|no)\b", reply.text, re.IGNORECASE)
    if answer is not None:
        return answer[1].lower() == "yes"
    return refused(reply) or Rejection("type_unclear", reply.text.strip()[:80])


def parse_instances(reply: Reply, by_label: bool) -> tuple[list[Instance], list[Rejection]]:
    """Return the complete instances of a reply, and why the others are rejected."""
    first, second = ("label", "input") if by_label else ("input", "output")
    text = reply.text if FIELD.match(reply.text.lstrip()) else f"{first}:{reply.text}"
    parts = FIELD.split(text.strip())[1:]
    # a chat model, at an endpoint, may call a label the output
    names = ["label" if by_label and name.lower() == "output" else name.lower() for name in parts[::2]]
    fields = [*zip(names, map(str.strip, parts[1::2]), strict=True)]
    cut = incomplete(reply)
    instances: list[Instance] = []
    rejections: list[Rejection] = []
    while fields:
        size = 2 if [name for name, _ in fields[:2]] == [first, second] else 1
        values, fields = fields[:size], fields[size:]
        if cut is not None and not fields:
            rejections.append(cut)
        elif size == 2:
            given, output = reversed(values) if by_label else values
            instances.append(Instance("" if given[1].lower() in EMPTY else given[1], output[1]))
        else:
            rejections.append(Rejection("malformed_instance", f"{values[0][0]}: {values[0][1][:60]}"))
    return instances, rejections
