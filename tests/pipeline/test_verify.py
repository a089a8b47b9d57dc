"""A run whose artifact, or whose model, is not what it seems ends as failed and says what differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import commands
from safetensors.torch import load_file, save_file

from peftkit.jobs import finetune
from peftkit.models import heads

Words = Callable[..., list[str]]


def failed(words: list[str]) -> str:
    out = Path(next(word for word in words if word.startswith("out=")).removeprefix("out="))
    with pytest.raises(Exception, match=r".") as error:
        commands.finetune(*words)
    (file,) = out.rglob("result.json")
    meta = json.loads(file.read_text())["meta"]
    assert meta["status"] == "failed"
    assert meta["reason"] == str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "method", ["lora", pytest.param("prefix", marks=pytest.mark.slow), pytest.param("full", marks=pytest.mark.slow)]
)
def test_what_was_measured_stands_in_the_result(tiny: Words, method: str) -> None:
    (folder,) = commands.finetune(*tiny("bert", f"method={method}", "train.bf16=false"))
    gates = json.loads((folder / "result.json").read_text())["gates"]
    assert gates["rows"] == 16
    assert gates["reload_difference"] < 1e-5 and gates["padding_difference"] < 1e-4


@pytest.mark.parametrize("lost", [pytest.param("classifier", marks=pytest.mark.slow), "lora_B"])
def test_an_artifact_that_lost_weights_fails_the_run(tiny: Words, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    save = finetune.export_artifact

    def losing(*arguments):
        artifact = save(*arguments)
        file = artifact / "adapter_model.safetensors"
        weights = {name: weight * (lost not in name) for name, weight in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
        return artifact

    monkeypatch.setattr(finetune, "export_artifact", losing)
    words = tiny("bert", "train.learning_rate=0.1", "train.bf16=false")
    assert "the saved artifact's scores differ from the trained model's by" in failed(words)


def test_an_artifact_that_cannot_be_loaded_fails_the_run(tiny: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    save = finetune.export_artifact

    def losing(*arguments):
        artifact = save(*arguments)
        (artifact / "adapter_config.json").unlink()
        return artifact

    monkeypatch.setattr(finetune, "export_artifact", losing)
    assert "cannot be loaded in a fresh process" in failed(tiny("bert"))


def test_a_model_that_reads_its_padding_fails_the_run(tiny: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "mean_of_real_tokens", lambda hidden, mask: torch.mean(hidden, dim=1))
    assert "with the padding of its batch" in failed(tiny("bert", "model.pooling=mean", "train.bf16=false"))
