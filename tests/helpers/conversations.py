"""Conversations as tables, and the task that reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from helpers import commands
from peftkit.config import TaskConfig
from peftkit.data.columns import prepare_table
from peftkit.data.conversations import ConversationReader

TASK = TaskConfig(
    name="instructions", suite="own", dataset="rows.jsonl", subset=None, revision="main", kind="instructions",
    text=["messages"], label=None, labels=None, splits={"train": "train", "validation": ["validation"]},
    metrics=["rouge_l"], template=None, max_length=64, max_train_samples=None, max_eval_samples=None, max_target_length=16,
)  # fmt: skip


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return first + [
        {"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(contents)
    ]


def table(*rows: dict[str, Any]) -> Dataset:
    return Dataset.from_list([{"idx": number, **row} for number, row in enumerate(rows)])


def conversation_examples(task: TaskConfig, rows: Dataset) -> tuple[Dataset, int]:
    """Return the examples of a table, and how many were dropped."""
    return ConversationReader(task).read(prepare_table(task, rows, "rows.jsonl"), None, "train")


def instruction_run(folder: Path, checkpoint: Path, *overrides: str) -> Path:
    """Return the folder of a run of an untrained tiny model, tuned on a few conversations, whose answers it learns."""
    rows = [{"messages": turns(f"Name film {number}.", f"It is film {number}, a great film.")} for number in range(8)]
    file = folder / "talks.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (found,) = commands.finetune(
        f"model={checkpoint.name}", f"model.checkpoint={checkpoint}", "task=instructions", f"task.dataset={file}",
        "source=offline", f"out={folder}", "task.max_length=48", "task.max_target_length=16", "train.bf16=false",
        "method=full", "train.learning_rate=1e-2", "train.num_train_epochs=40", "train.disable_tqdm=true",
        "train.save_strategy=no", *overrides,
    )  # fmt: skip
    return found
