"""Turn tasks into the prompts of Self-Instruct (Wang et al. 2023, section 2.2 and appendix A), in words of our own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from peftkit.generation.generators import GenerationPrompt
from peftkit.generation.tasks import Instance, Task

FROM_SEEDS, FROM_GENERATED, NEW = 6, 2, 8  # tasks shown, and tasks asked for
YES, NO = 12, 19  # tasks that show what a classification is
WORKED, LONGEST = 6, 120  # tasks that show what instances are, and words of the longest of them
NOTHING = "none"  # an input where the instruction says all

INVITE = (
    "This is a list of {count} tasks for a language model. No two are alike: each asks for another kind of work, about "
    "another matter, in other words. Some are questions and some are orders; some want one of a few labels, some a "
    "line, some a whole text. Each can be done by reading and writing alone, and each is said in one or two sentences."
)
ASK = (
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
    seeds: Sequence[Task], kept: Sequence[Task], draw: random.Random, like: GenerationPrompt
) -> GenerationPrompt:
    """Ask for eight new instructions after eight old ones: six seeds and two kept ones, as far as there are any."""
    made = draw.sample(list(kept), min(FROM_GENERATED, len(kept)))
    given = draw.sample(list(seeds), min(FROM_SEEDS + FROM_GENERATED - len(made), len(seeds)))
    shown = [*given, *made]
    draw.shuffle(shown)
    lines = [f"Task {place}: {one_line(task.instruction)}" for place, task in enumerate(shown, start=1)]
    return replace(
        like,
        opening=INVITE.format(count=len(shown) + NEW) + "\n",
        examples=tuple(lines),
        question=f"Task {len(shown) + 1}:",
        stop=(f"Task {len(shown) + NEW + 1}:",),
    )


def classification_prompt(instruction: str, seeds: Sequence[Task], draw: random.Random) -> GenerationPrompt:
    """Ask whether an instruction wants one of a few labels."""
    yes = [task for task in seeds if task.is_classification]
    no = [task for task in seeds if not task.is_classification]
    shown = draw.sample(yes, min(YES, len(yes))) + draw.sample(no, min(NO, len(no)))
    draw.shuffle(shown)
    return GenerationPrompt(
        opening=ASK + "\n",
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
    """Ask for instances: label first for a classification, or all would be of one label; else input first."""
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
