"""A method is configured for the steps of its training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from helpers import commands

Overrides = Callable[..., list[str]]


def test_adalora_counts_the_windows_of_long_passages(tiny: Overrides, tmp_path: Path) -> None:
    passage = "the actor sang . " * 12 + "the writer slept in rome ."
    file = tmp_path / "questions.jsonl"
    row = {"question": "where did the writer sleep ?", "context": passage, "answers": "rome"}
    file.write_text(f"{json.dumps(row)}\n" * 10)
    overrides = ["method=adalora", "task=question_answering", f"task.dataset={file}", "task.max_length=40"]
    (folder,) = commands.finetune(*tiny("bert", *overrides, "task.stride=8"))
    result = json.loads((folder / "result.json").read_text())
    steps = result["costs"]["steps"]
    assert steps > 2  # of 8 windows each, where 9 questions are two steps
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (config["total_step"], config["tinit"], config["tfinal"]) == (steps, steps // 10, steps // 3)
