"""Self-Instruct with a chat model: one text per request, with seeds as the earlier turns of the conversation.

The paper's prompts are continued by a base model. A chat model gets a request of its own for the instruction, for
whether it is a classification, for whether it needs an input, for the input, and for the output. The output is the
reply to the bare instruction and its input, so that training on it is plain distillation. Only the output of a
classification is chosen first, as in the paper (else most would have one label): its labels are requested, and an input
for each.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from peftkit.config import Generate
from peftkit.generation.client import GenerationClient
from peftkit.generation.filters import Rejection, first_rejection, incomplete, only_apologizes, refusal_or_echo
from peftkit.generation.generators import GenerationPrompt, Reply
from peftkit.generation.instruction_tasks import Instance, InstructionTask, one_line
from peftkit.generation.pool import Candidate, TaskPool, replies_to

NEW_TASK = (
    "Write one task for a language model{about}. It can be done by reading and writing alone, and takes one or two "
    "sentences. Reply with the task only."
)
TOPICS = (
    "food", "travel", "history", "weather", "health", "music", "school", "money", "animals", "plants", "sport", "law",
    "the sea", "cities", "work", "family", "machines", "computers", "mathematics", "physics", "chemistry", "language",
    "poetry", "letters", "news", "art", "houses", "clothes", "time", "holidays", "space", "maps", "games", "names",
    "friends", "shopping", "books", "films", "safety", "politics",
)  # fmt: skip
FIRST_WORDS = (
    "Write", "Explain", "Describe", "List", "Suggest", "Name", "Compare", "Summarize", "Rewrite", "Correct",
    "Translate", "Classify", "Decide", "Identify", "Find", "Give", "Create", "Design", "Compose", "Convert", "Compute",
    "Define", "What", "How", "Why", "Which", "Is",
)  # fmt: skip
NEW_TASK_SEEDS = 4  # seed instructions among the earlier turns
CLASSIFY = (
    "A classification task has a small set of possible answers that is known before its input is read. Is the "
    "following task one? Answer Yes or No."
)
INPUT_REQUIRED = {
    True: "Sure! What is the input?",
    False: "Sure! Here is the answer:",
}  # replies to an instruction alone
INPUT_SEEDS = 14  # of either kind
INPUT = "Task: {task}\nWrite one input for this task, but do not do it. Reply with the input only."
LABELS = "Task: {task}\nList the possible answers to this task, separated by commas. Reply with the list only."
LABELED_INPUT = (
    "Task: {task}\nWrite one input for this task to which the right answer is: {label}. Reply with the input only."
)
WORKED_TURNS, MAX_TURN_WORDS = 6, 80  # seeds before a request for labels or inputs; words of each
SHORT_REPLY = 128  # tokens of labels or an input
LABEL_COUNT, LABEL_WORDS = (2, 4), 4  # labels of a classification, fewest and most used; words of each


def new_task_prompts(
    seeds: Sequence[InstructionTask], draws: Sequence[random.Random], settings: Generate
) -> list[GenerationPrompt]:
    """Return prompts for one new instruction each, with a topic and a first word drawn for each.

    Four seeds, with their names as topics, are earlier answers; they are the same in all prompts, which share their
    cache.
    """
    shown = draws[0].sample(list(seeds), min(NEW_TASK_SEEDS, len(seeds)))
    turns = tuple((NEW_TASK.format(about=_topic(task)), one_line(task.instruction)) for task in shown)
    return [
        GenerationPrompt(
            opening="",
            examples=(),
            question=NEW_TASK.format(about=f" about {draw.choice(TOPICS)}"),
            stop=("\n",),
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            turns=turns,
            prefix=draw.choice(FIRST_WORDS),
        )
        for draw in draws
    ]


def _topic(task: InstructionTask) -> str:
    return "" if task.name == task.id else f" about {task.name.replace('_', ' ')}"


def parse_new_task(reply: Reply, prompt: GenerationPrompt) -> tuple[str, Rejection | None]:
    """Return the instruction of a reply, and why it is none: a refusal, or a repetition of the prompt."""
    text = one_line(prompt.prefix + reply.text)
    return text, (
        incomplete(reply)
        or first_rejection(("empty_reply", not reply.text.strip(), ""))
        or refusal_or_echo(text, NEW_TASK)
        or first_rejection(("preamble", text.endswith(":"), ""))
    )


def classification_turns(instruction: str, shown: Sequence[InstructionTask]) -> GenerationPrompt:
    """Return the prompt for the likelier of Yes and No: whether an instruction is a classification."""
    turns = tuple((f"Task: {one_line(task.instruction)}", "Yes" if task.is_classification else "No") for task in shown)
    return GenerationPrompt(CLASSIFY + "\n", (), f"Task: {instruction}", ("\n",), 8, turns=turns, choices=("Yes", "No"))


@dataclass
class _Case:
    """An instance in the making; a classification's has its label from the start."""

    candidate: Candidate
    label: str | None = None
    input: str = ""

    @property
    def request(self) -> str:
        template = INPUT if self.label is None else LABELED_INPUT
        return template.format(task=self.candidate.instruction, label=self.label)


def add_instances(pool: TaskPool, client: GenerationClient, candidates: Sequence[Candidate]) -> None:
    """Set the instances of candidates; those that are faulty are recorded in the pool."""
    prompts = input_required_prompts(candidates, pool.seeds, client.stream("input required"))
    required = {
        id(candidate): reply.text == INPUT_REQUIRED[True]
        for candidate, reply in replies_to(client, candidates, prompts, "input_required_request")
    }
    cases = [_Case(each) for each in candidates if not required[id(each)]]
    with_input = [each for each in candidates if required[id(each)]]
    requested = [_Case(each) for each in with_input if not each.is_classification]
    labeled = [each for each in with_input if each.is_classification]
    turns = labels_turns(pool.seeds, client.stream("labels"))
    prompts = [_request(LABELS.format(task=each.instruction), turns, SHORT_REPLY) for each in labeled]
    for candidate, reply in replies_to(client, labeled, prompts, "labels_request"):
        labels, rejection = parse_labels(reply)
        if rejection is not None:
            pool.reject(candidate, rejection, "instance")
        requested += [_Case(candidate, label) for label in labels]
    shown = input_turns(pool.seeds, client.stream("inputs"))
    prompts = [_request(case.request, shown[case.candidate.is_classification], SHORT_REPLY) for case in requested]
    for case, reply in zip(requested, client(prompts), strict=True):
        case.candidate.provenance.setdefault("input_requests", []).append(reply.number)
        turns = shown[case.candidate.is_classification]
        case.input = reply.text.strip().removeprefix("Input:").strip()
        if (fault := incomplete(reply) or _check_input(case, turns)) is not None:
            pool.reject(case.candidate, fault, "instance", Instance(case.input, case.label or ""))
        elif case.label is not None:
            case.candidate.instances = [*case.candidate.instances, Instance(case.input, case.label)]
        else:
            cases.append(case)
    _add_outputs(pool, client, cases)


def _add_outputs(pool: TaskPool, client: GenerationClient, cases: Sequence[_Case]) -> None:
    """Add the replies to the instructions with their inputs, in the format of the dataset."""
    texts = ["\n\n".join(filter(None, (case.candidate.instruction, case.input))) for case in cases]
    prompts = [_request(text, (), pool.settings.max_answer_tokens) for text in texts]
    replies = replies_to(client, [case.candidate for case in cases], prompts, "output_request")
    for case, (candidate, reply) in zip(cases, replies, strict=True):
        instance = Instance(case.input, reply.text.strip())
        if (fault := incomplete(reply) or only_apologizes(instance.output)) is not None:
            pool.reject(candidate, fault, "instance", instance)
        else:
            candidate.instances = [instance]


def input_required_prompts(
    candidates: Sequence[Candidate], seeds: Sequence[InstructionTask], draw: random.Random
) -> list[GenerationPrompt]:
    """Return the prompts for the likelier reply to an instruction alone: a question for its input, or an answer."""
    with_input = [task for task in seeds if task.instances[0].input]
    without = [task for task in seeds if not task.instances[0].input]
    shown = [each for group in (with_input, without) for each in draw.sample(group, min(INPUT_SEEDS, len(group)))]
    draw.shuffle(shown)
    turns = tuple((one_line(task.instruction), INPUT_REQUIRED[bool(task.instances[0].input)]) for task in shown)
    choices = (INPUT_REQUIRED[True], INPUT_REQUIRED[False])
    return [
        GenerationPrompt("", (), each.instruction, (), 8, turns=turns, choices=choices, neutral="N/A")
        for each in candidates
    ]


def labels_turns(seeds: Sequence[InstructionTask], draw: random.Random) -> tuple[tuple[str, str], ...]:
    """Return requests for labels with the labels of seeds, of those that have several."""
    labels = {task.id: [*dict.fromkeys(each.output for each in task.instances)] for task in seeds}
    worked = [task for task in seeds if task.is_classification and len(labels[task.id]) > 1]
    shown = draw.sample(worked, min(WORKED_TURNS, len(worked)))
    return tuple((LABELS.format(task=one_line(task.instruction)), ", ".join(labels[task.id])) for task in shown)


def input_turns(seeds: Sequence[InstructionTask], draw: random.Random) -> dict[bool, tuple[tuple[str, str], ...]]:
    """Return requests for inputs with the inputs of seeds, by whether the task is a classification."""
    turns = {}
    for by_label, template in ((False, INPUT), (True, LABELED_INPUT)):
        worked = [
            (template.format(task=one_line(task.instruction), label=each.output), each.input)
            for task in seeds
            for each in task.instances[:1]
            if task.is_classification == by_label and each.input
        ]
        short = [turn for turn in worked if len(" ".join(turn).split()) <= MAX_TURN_WORDS] or worked
        turns[by_label] = tuple(draw.sample(short, min(WORKED_TURNS, len(short))))
    return turns


def _request(question: str, turns: tuple[tuple[str, str], ...], length: int) -> GenerationPrompt:
    return GenerationPrompt("", (), question, (), length, turns=turns)


def parse_labels(reply: Reply) -> tuple[list[str], Rejection | None]:
    """Return the labels of a list in a reply, or why there are none."""
    parts = re.split(r",|\n|\bor\b", reply.text)
    labels = [*dict.fromkeys(text for part in parts if (text := part.strip(" \t.:;-*\"'")))]
    fault = incomplete(reply) or first_rejection(
        ("no_labels", len(labels) < LABEL_COUNT[0], reply.text.strip()[:80]),
        ("no_labels", any(len(label.split()) > LABEL_WORDS for label in labels), reply.text.strip()[:80]),
    )
    return ([], fault) if fault else (labels[: LABEL_COUNT[1]], None)


def _check_input(case: _Case, turns: tuple[tuple[str, str], ...]) -> Rejection | None:
    """Return why an input is rejected: empty, a refusal, or a repetition of the request or of an earlier input."""
    earlier = [answer for _, answer in turns]
    faults = (refusal_or_echo(case.input, text) for text in (case.request, *earlier))
    return first_rejection(("empty_input", not case.input, "")) or next(filter(None, faults), None)
