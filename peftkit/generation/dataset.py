"""Parquet files of kept tasks that `datasets` loads: conversations, and tasks in the paper's format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from peftkit.generation.tasks import Task

TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
INSTANCE = pa.struct([("input", pa.string()), ("output", pa.string())])
CHAT = pa.schema([("id", pa.string()), ("messages", pa.list_(TURN))])
TASKS = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("instruction", pa.string()),
        ("instances", pa.list_(INSTANCE)),
        ("is_classification", pa.bool_()),
    ]
)


def write_dataset(folder: Path, tasks: Sequence[Task]) -> None:
    """Write chat/train.parquet and tasks/train.parquet, each atomically."""
    _write(folder / "chat", CHAT, [row for task in tasks for row in to_conversations(task)])
    _write(folder / "tasks", TASKS, [asdict(task) for task in tasks])


def to_conversations(task: Task) -> Iterator[dict[str, Any]]:
    """Yield a user turn and an assistant turn for each instance; the input follows the instruction."""
    for instance in task.instances:
        prompt = "\n\n".join(text for text in (task.instruction, instance.input) if text)
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": instance.output}]
        yield {"id": task.id, "messages": turns}


def _write(folder: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    part = folder / ".train.parquet.part"
    pq.write_table(pa.Table.from_pylist(rows, schema), part)
    part.replace(folder / "train.parquet")
