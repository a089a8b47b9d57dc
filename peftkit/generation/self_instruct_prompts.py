"""The prompts of Self-Instruct (Wang et al. 2023, section 2.2 and appendix A), in our own wording."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from peftkit.generation.generators import GenerationPrompt
from peftkit.generation.tasks import Instance, Task

FROM_SEEDS, FROM_GENERATED, NEW = 6, 2, 8  # tasks shown, and tasks requested
YES, NO = 12, 19  # example tasks that are classifications, and that are not
WORKED, LONGEST = 6, 120  # worked example tasks, and the most words of each
NOTHING = "none"  # the input of an instruction that needs none

INVITE = (
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


def new_tasks_prompt(
    seeds: Sequence[Task], kept: Sequence[Task], draw: random.Random, sampling: GenerationPrompt
) -> GenerationPrompt:
    """Return the prompt for eight new instructions after eight existing ones: six seeds and two kept tasks, if any.

    Args:
        sampling: a prompt with the length and sampling settings.
    """
    generated = draw.sample(list(kept), min(FROM_GENERATED, len(kept)))
    given = draw.sample(list(seeds), min(FROM_SEEDS + FROM_GENERATED - len(generated), len(seeds)))
    shown = [*given, *generated]
    draw.shuffle(shown)
    lines = [f"Task {place}: {one_line(task.instruction)}" for place, task in enumerate(shown, start=1)]
    return replace(
        sampling,
        opening=INVITE.format(count=len(shown) + NEW) + "\n",
        examples=tuple(lines),
        question=f"Task {len(shown) + 1}:",
        stop=(f"Task {len(shown) + NEW + 1}:",),
    )


def classification_prompt(instruction: str, seeds: Sequence[Task], draw: random.Random) -> GenerationPrompt:
    """Return the prompt for whether an instruction is a classification."""
    yes = [task for task in seeds if task.is_classification]
    no = [task for task in seeds if not task.is_classification]
    shown = draw.sample(yes, min(YES, len(yes))) + draw.sample(no, min(NO, len(no)))
    draw.shuffle(shown)
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
    instruction: str, by_label: bool, seeds: Sequence[Task], draw: random.Random, length: int
) -> GenerationPrompt:
    """Return the prompt for instances: label first for classifications (else all would have one label)."""
    alike = [task for task in seeds if task.is_classification == by_label]
    worked = [task for task in alike if _words(task) <= LONGEST] or alike
    shown = draw.sample(worked, min(WORKED, len(worked)))
    first, case = ("Label", _label_first) if by_label else ("Input", _input_first)
    return GenerationPrompt(
        opening=(OUTPUT_FIRST if by_label else INPUT_FIRST) + "\n",
        examples=tuple(_worked(task, case) for task in shown),
        question=f"Task: {instruction}\n{first}:",
        stop=("\nTask:",),
        max_new_tokens=length,
    )


def one_line(text: str) -> str:
    return " ".join(text.split())


def _worked(task: Task, case: Callable[[Instance], str]) -> str:
    cases = "".join(case(instance) for instance in task.instances[:3])
    return f"Task: {one_line(task.instruction)}\n{cases}"


def _input_first(instance: Instance) -> str:
    return f"Input: {instance.input or NOTHING}\nOutput: {instance.output}\n"


def _label_first(instance: Instance) -> str:
    return f"Label: {instance.output}\nInput: {instance.input or NOTHING}\n"


def _words(task: Task) -> int:
    return len(_worked(task, _input_first).split())
