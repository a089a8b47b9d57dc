"""Turn kept tasks into what `datasets` loads: conversations, one row an instance, and the paper's tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from peftkit.generation.tasks import Task

TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
CASE = pa.struct([("input", pa.string()), ("output", pa.string())])
CHAT = pa.schema([("id", pa.string()), ("messages", pa.list_(TURN))])
TASKS = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("instruction", pa.string()),
        ("instances", pa.list_(CASE)),
        ("is_classification", pa.bool_()),
    ]
)


def write_dataset(folder: Path, tasks: Sequence[Task]) -> None:
    """Write chat/train.parquet and tasks/train.parquet, each whole or not at all."""
    _write(folder / "chat", CHAT, [row for task in tasks for row in to_conversations(task)])
    _write(folder / "tasks", TASKS, [task.row() for task in tasks])


def to_conversations(task: Task) -> Iterator[dict[str, Any]]:
    """Yield a user's turn and an assistant's for each instance; its input follows the instruction."""
    for case in task.instances:
        asked = "\n\n".join(text for text in (task.instruction, case.input) if text)
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": case.output}]
        yield {"id": task.id, "messages": turns}


def _write(folder: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    part = folder / ".train.parquet.part"
    pq.write_table(pa.Table.from_pylist(rows, schema), part)
    part.replace(folder / "train.parquet")
