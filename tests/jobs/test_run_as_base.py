"""A run, its adapter and an adapter of other programs are bases: their weights are merged in, and what was used is recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import commands
from helpers.commands import check, choose

import peftkit
from peftkit.config import UserError
from peftkit.models.load import load_model
from peftkit.models.tokenizer import load_tokenizer
from peftkit.pipeline.artifacts import find_model
from peftkit.results.run_result import RunResult

Overrides = Callable[..., list[str]]


def logits_of_base(words: list[str], names: list[str]) -> tuple[torch.Tensor, Any]:
    """Return the logits of the model that a run would start from, and its source."""
    (config,) = choose(words)
    source = find_model(config.model, "offline")
    model = load_model(config.model, source, load_tokenizer(source), "classification", names).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([[2, 7, 8, 3]])).logits, source


def test_an_adapter_as_a_base_is_merged_into_its_own(
    tiny: Overrides, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTKIT_HOME", str(tmp_path / "home"))
    (run,) = commands.finetune(*tiny("bert", "task=sst2", "model.pooling=mean", "train.learning_rate=0.1"))
    model, _ = peftkit.load(run)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[2, 7, 8, 3]])).logits
    names = RunResult(run).label_names or []
    foreign = tmp_path / "foreign"
    shutil.copytree(run / "adapter", foreign)
    for base in (run, run / "adapter", run / "merged"):
        found, source = logits_of_base(tiny("bert", f"model.checkpoint={base}"), names)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
        assert source.name == str(run / "merged")
    (second,) = commands.finetune(*tiny("bert", "task=mrpc", f"model.checkpoint={run}"))
    assert json.loads((second / "result.json").read_text())["audit"]["sources"]["model"]["pooling"] == "mean"

    config = json.loads((foreign / "adapter_config.json").read_text())
    words = tiny("bert", f"model.checkpoint={foreign}", "model.pooling=mean")
    with pytest.raises(UserError, match="an adapter of bert, which is not available"):
        logits_of_base(words, names)
    config["base_model_name_or_path"] = str(checkpoints["bert"])
    (foreign / "adapter_config.json").write_text(json.dumps(config))
    found, source = logits_of_base(words, names)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert source.name.startswith(str(tmp_path / "home" / "merged"))

    (tmp_path / "terms.txt").write_text("zyxwort\n")
    extended = tiny("bert", "job=extend", f"extend.terms={tmp_path}/terms.txt", f"model.checkpoint={run}")
    vocabulary = commands.run([word for word in extended if not word.startswith(("train.", "task."))])
    commands.merge(vocabulary)
    assert check(tiny("bert", f"model.checkpoint={vocabulary}/merged")) == []
    assert "is a vocabulary of job=extend" in str(check(tiny("bert", f"model.checkpoint={vocabulary}")))


def test_a_folder_without_a_model_and_an_adapter_that_cannot_be_merged_are_refused(
    tiny: Overrides, tmp_path: Path
) -> None:
    (message,) = check(tiny("bert", f"model.checkpoint={tmp_path}"))
    assert "has no config.json" in message
    (run,) = commands.finetune(*tiny("bert", "task=sst2", "method=adapter"))
    with pytest.raises(UserError, match="cannot be merged: bottleneck"):
        commands.finetune(*tiny("bert", "task=sst2", f"model.checkpoint={run}"))
