"""Tasks of an instruction with instances: read from the jsonl format of Self-Instruct, written as parquet files."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from peftkit.config import UserError
from peftkit.data.cells import CellError, text_of
from peftkit.paths import atomic_write

SEEDS = Path(__file__).resolve().parent / "seeds" / "tasks.jsonl"
EXAMPLE = '{"id": "1", "instruction": "Name a prime.", "instances": [{"input": "", "output": "7"}]}'
TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
INSTANCE = pa.struct([("input", pa.string()), ("output", pa.string())])
SCHEMAS = {
    "chat": pa.schema({"id": pa.string(), "messages": pa.list_(TURN)}),
    "tasks": pa.schema(
        {
            "id": pa.string(),
            "name": pa.string(),
            "instruction": pa.string(),
            "instances": pa.list_(INSTANCE),
            "is_classification": pa.bool_(),
        }
    ),
}


@dataclass(frozen=True)
class Instance:
    """One input with its output; the input is empty where the instruction needs none."""

    input: str
    output: str


@dataclass(frozen=True)
class InstructionTask:
    """An instruction with instances (Wang et al. 2023, section 2.1)."""

    id: str
    name: str
    instruction: str
    instances: tuple[Instance, ...]
    is_classification: bool


def read_tasks(file: Path) -> list[InstructionTask]:
    """Read tasks, one JSON object per line: id, name, instruction, instances [{input, output}], is_classification.

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
        raise UserError(f"{file}: no tasks in it; write one JSON object per line: {EXAMPLE}")
    if len({task.id for task in tasks}) < len(tasks):
        raise UserError(f"{file}: two tasks have the same id; ids must be unique")
    return tasks


def _parse(line: str, location: str) -> InstructionTask:
    try:
        row = json.loads(line)
        instances = tuple(Instance(text_of(case.get("input")), text_of(case["output"])) for case in row["instances"])
        instruction, name = text_of(row["instruction"]).strip(), text_of(row.get("name") or row["id"])
        task = InstructionTask(str(row["id"]), name, instruction, instances, bool(row.get("is_classification")))
    except json.JSONDecodeError as error:
        raise UserError(f"{location}: not JSON ({error.msg}); write one object per line: {EXAMPLE}") from error
    except (AttributeError, KeyError, TypeError, CellError) as error:
        raise UserError(f"{location}: not a task (missing or wrong: {error}); write {EXAMPLE}") from error
    if not task.instruction or not any(instance.output.strip() for instance in task.instances):
        raise UserError(f"{location}: no instruction, or no instance with an output; write {EXAMPLE}")
    return task


def write_dataset(folder: Path, tasks: Sequence[InstructionTask]) -> None:
    """Write chat/train.parquet and tasks/train.parquet, in the paper's format, each atomically.

    A conversation has a user turn and an assistant turn for an instance; the input follows the instruction.
    """
    turns = [
        (task.id, "\n\n".join(filter(None, (task.instruction, instance.input))), instance.output)
        for task in tasks
        for instance in task.instances
    ]
    conversations = [
        {"id": id, "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
        for id, prompt, answer in turns
    ]
    for name, rows in (("chat", conversations), ("tasks", [asdict(task) for task in tasks])):
        with atomic_write(folder / name / "train.parquet") as part:
            pq.write_table(pa.Table.from_pylist(rows, SCHEMAS[name]), part)


def one_line(text: str) -> str:
    return " ".join(text.split())
