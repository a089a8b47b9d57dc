"""Conversations as tables, and the task that reads them."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

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
