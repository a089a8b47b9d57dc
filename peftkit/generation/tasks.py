"""Turn a jsonl file of tasks, in Self-Instruct's format, into tasks; and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peftkit.config import UserError

SEEDS = Path(__file__).resolve().parent / "seeds" / "tasks.jsonl"


@dataclass(frozen=True)
class Instance:
    """One case of a task; the input is empty where the instruction says all."""

    input: str
    output: str


@dataclass(frozen=True)
class Task:
    """An instruction and cases of it (Wang et al. 2023, section 2.1)."""

    id: str
    name: str
    instruction: str
    instances: tuple[Instance, ...]
    is_classification: bool

    def row(self) -> dict[str, Any]:
        """Return the task as a line of the file."""
        return {**asdict(self), "instances": [asdict(instance) for instance in self.instances]}


def read_tasks(file: Path) -> list[Task]:
    """Read tasks, one object a line: id, name, instruction, instances [{input, output}], is_classification.

    A file without names, or without is_classification, is read too: none of its tasks is a classification then.

    Raises:
        UserError: a line is no task, or there is none.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: it cannot be read as UTF-8 ({error}); name another file of tasks") from error
    tasks = [_task(line, f"{file}: line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not tasks:
        raise UserError(f"{file}: there are no tasks in it; write one object a line, as {_EXAMPLE}")
    if len({task.id for task in tasks}) < len(tasks):
        raise UserError(f"{file}: two tasks have the same id; give each its own")
    return tasks


_EXAMPLE = '{"id": "1", "instruction": "Name a prime.", "instances": [{"input": "", "output": "7"}]}'


def _task(line: str, place: str) -> Task:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{place} is no JSON ({error.msg}); write one object a line, as {_EXAMPLE}") from error
    try:
        instances = tuple(Instance(str(case.get("input") or ""), str(case["output"])) for case in row["instances"])
        instruction = str(row["instruction"]).strip()
        name = str(row.get("name") or row["id"])
        task = Task(str(row["id"]), name, instruction, instances, bool(row.get("is_classification")))
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{place} is no task (it lacks {error}); write {_EXAMPLE}") from error
    if not task.instruction or not any(instance.output.strip() for instance in task.instances):
        raise UserError(f"{place} has no instruction, or no instance with an output; write {_EXAMPLE}")
    return task
