"""A kind of task with new columns and labels is a record and a module of data.formats."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Value
from transformers import AutoTokenizer

from peftkit.config import KINDS, TaskConfig, TaskKind
from peftkit.data.datasets import ExampleReader, example_reader, load_task_dataset
from peftkit.data.formats import Encoded, Format, Predictions, format_of


class ChoiceReader(ExampleReader):
    """Reads a context and its possible endings; the label is the letter of the right one."""

    @property
    def label_feature(self) -> Any:
        return Value("int64")

    def label_parser(self, table: Dataset, names: list[str] | None, split: str) -> Any:
        return "ABCD".index

    def parse_text(self, cell: Any) -> Any:
        return cell if isinstance(cell, list) else super().parse_text(cell)


@dataclass(frozen=True)
class MultipleChoiceFormat(Format):
    reader = ChoiceReader

    def encode(self, examples: Dataset) -> Encoded:
        context, endings = self.task.text
        inputs = [
            dict(self.tokenizer([row[context]] * len(row[endings]), row[endings], padding=True))  # type: ignore[index]
            for row in examples
        ]
        lengths = [len(each["input_ids"][0]) for each in inputs]
        labels = np.array(examples["label"])
        return Encoded(Dataset.from_list(inputs), lengths, 0, labels, np.ones(len(labels), dtype=bool))

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        return Predictions(np.array([each.argmax() for each in scores]), scores)

    def describe(self, prediction: Any) -> Any:
        return "ABCD"[int(prediction)]


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TaskConfig:
    module: Any = ModuleType("peftkit.data.formats.multiple_choice")
    module.MultipleChoiceFormat = MultipleChoiceFormat
    monkeypatch.setitem(sys.modules, module.__name__, module)
    kind = TaskKind(
        "multiple_choice", "the right ending", metrics=("accuracy",), columns=("context", "endings"),
        column_count=(2, 2), heads={"encoder": "AutoModelForMultipleChoice"},
        formats={"encoder": "multiple_choice:MultipleChoiceFormat"}, task_types={"encoder": None},
    )  # fmt: skip
    monkeypatch.setitem(KINDS, kind.name, kind)
    for split in ("train", "validation"):
        rows = [{"context": f"{split} {n}", "endings": ["sang", "slept"], "right": "AB"[n % 2]} for n in range(10)]
        rows.append({"context": "", "endings": ["sang", "slept"], "right": "A"})
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return TaskConfig(
        name="choices", suite="own", dataset=str(tmp_path), subset=None, revision="main", kind=kind.name,
        text=["context", "endings"], label="right", labels=None, metrics=["accuracy"], template=None, max_length=32,
        splits={"train": "train", "validation": ["validation"]}, max_train_samples=None, max_eval_samples=None,
    )  # fmt: skip


def test_its_examples_are_loaded_encoded_and_decoded(task: TaskConfig, checkpoints: dict[str, Path]) -> None:
    loaded = load_task_dataset(task, None, "offline")
    assert loaded.dropped == {"train": 1, "validation": 1} and loaded.label_names is None
    assert loaded.splits["train"]["label"][:2] == [0, 1] and loaded.splits["train"][0]["endings"] == ["sang", "slept"]
    chosen = format_of(task, "encoder", None, AutoTokenizer.from_pretrained(checkpoints["bert"]))
    encoded = chosen.encode_training(loaded.splits["train"], seed=0)
    assert len(encoded.inputs[0]["input_ids"]) == 2 and len(encoded.lengths) == 10
    answers = chosen.decode([np.array([0.0, 1.0])] * 10, encoded)
    assert (answers.predictions == encoded.labels).mean() == 0.5 and chosen.describe(answers.predictions[0]) == "B"


def test_its_examples_are_split_for_early_stopping_and_search(task: TaskConfig) -> None:
    rest, held_out = example_reader(task).split(load_task_dataset(task, None, "offline").splits["train"], 0.3)
    assert (len(rest), len(held_out)) == (7, 3)
    tried = load_task_dataset(task, None, "offline", search_samples=4).splits
    assert {name: len(split) for name, split in tried.items()} == {"train": 6, "search_holdout": 4}
