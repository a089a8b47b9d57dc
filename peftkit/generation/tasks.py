"""Tasks and their instances, and the jsonl format of Self-Instruct that holds them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from peftkit.config import UserError

SEEDS = Path(__file__).resolve().parent / "seeds" / "tasks.jsonl"
EXAMPLE = '{"id": "1", "instruction": "Name a prime.", "instances": [{"input": "", "output": "7"}]}'


@dataclass(frozen=True)
class Instance:
    """One input with its output; the input is empty where the instruction needs none."""

    input: str
    output: str


@dataclass(frozen=True)
class Task:
    """An instruction with instances (Wang et al. 2023, section 2.1)."""

    id: str
    name: str
    instruction: str
    instances: tuple[Instance, ...]
    is_classification: bool


def read_tasks(file: Path) -> list[Task]:
    """Read tasks, one JSON object a line: id, name, instruction, instances [{input, output}], is_classification.

    Names and is_classification are optional; without the latter no task counts as a classification.

    Raises:
        UserError: a line is not a task, two have the same id, or there is none.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 ({error}); set generate.seeds= to a jsonl file") from error
    tasks = [_parse(line, f"{file}: line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not tasks:
        raise UserError(f"{file}: no tasks in it; write one JSON object a line: {EXAMPLE}")
    if len({task.id for task in tasks}) < len(tasks):
        raise UserError(f"{file}: two tasks have the same id; ids must be unique")
    return tasks


def _parse(line: str, place: str) -> Task:
    try:
        row = json.loads(line)
        instances = tuple(Instance(str(case.get("input") or ""), str(case["output"])) for case in row["instances"])
        instruction, name = str(row["instruction"]).strip(), str(row.get("name") or row["id"])
        task = Task(str(row["id"]), name, instruction, instances, bool(row.get("is_classification")))
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON ({error.msg}); write one object a line: {EXAMPLE}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{place}: not a task (missing or wrong: {error}); write {EXAMPLE}") from error
    if not task.instruction or not any(instance.output.strip() for instance in task.instances):
        raise UserError(f"{place}: no instruction, or no instance with an output; write {EXAMPLE}")
    return task
