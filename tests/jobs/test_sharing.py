"""Runs of one command share what they read and tokenize, and equal the runs alone to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import commands
from helpers.unbroken import learned

from peftkit.config import sharing
from peftkit.data.formats.base import Format
from peftkit.pipeline import encoding, sources

Overrides = Callable[..., list[str]]
METHODS = ("method=lora", "method=ia3", "method=full", "method=prompt")


def counted(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> list[None]:
    """Return a list that grows by an item with each call of a function."""
    calls: list[None] = []
    function = getattr(module, name)

    def call(*arguments, **settings):
        calls.append(None)
        return function(*arguments, **settings)

    monkeypatch.setattr(module, name, call)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_runs_that_share_equal_runs_alone(tiny: Overrides, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    commands_of_runs = [
        tiny(model, "task=sst2", f"seed={seed}", method, "train.dataloader_num_workers=0")
        for method in METHODS
        for seed in (0, 1)
    ]
    read = counted(monkeypatch, encoding, "load_task_dataset")
    loaded = counted(monkeypatch, sources, "load_tokenizer")
    encoded = counted(monkeypatch, Format, "encode_training")
    alone = [learned(commands.finetune(*overrides)[0]) for overrides in commands_of_runs]
    assert (len(read), len(loaded), len(encoded)) == (8, 8, 8)
    with sharing():
        together = [learned(commands.finetune(*overrides, "force=true")[0]) for overrides in commands_of_runs]
    # a prompt leaves fewer positions for the text, so that it has a tokenizer of its own
    assert (len(read), len(loaded), len(encoded)) == (9, 10, 10)
    assert together == alone


@pytest.mark.slow
def test_a_file_that_changed_is_read_again(tiny: Overrides, tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    overrides = tiny("bert", "task=classification", f"task.dataset={file}", "task.text=[text]", "task.label=label")
    rows = [f"{'good' if number % 2 else 'bad'} film {number},{number % 2}\n" for number in range(40)]
    with sharing():
        file.write_text("text,label\n" + "".join(rows))
        (first,) = commands.finetune(*overrides)
        file.write_text("text,label\n" + "".join(rows[:20]))
        (second,) = commands.finetune(*overrides)
    counts = [json.loads((each / "result.json").read_text())["audit"]["rows"]["train"] for each in (first, second)]
    assert counts[0] > counts[1]
