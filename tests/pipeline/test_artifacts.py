"""The files of an adapter name its base, contain no path of the machine that trained it, and have a fixed order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import commands
from transformers import AutoModelForSequenceClassification, GPT2ForSequenceClassification

import peftkit

Overrides = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("overrides", "name"),
    [([], "bert"), (["model=minilm", "model.checkpoint=sentence-transformers/all-MiniLM-L6-v2"], "minilm")],
)
def test_an_adapter_names_its_base_without_a_path(tiny: Overrides, overrides: list[str], name: str) -> None:
    (folder,) = commands.finetune(*tiny("bert", "task=sst2", "task.max_train_samples=8", *overrides))
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == name
    assert config["target_modules"] == sorted(config["target_modules"]) and len(config["target_modules"]) > 3
    base = peftkit.load(folder)[0].get_base_model().config
    texts = [file.read_text(encoding="utf-8") for file in (folder / "adapter").rglob("*.json")]
    assert not [text for text in texts if str(base.name_or_path) in text or str(folder.parent) in text]


def test_the_base_is_stored_beside_the_adapter_of_a_finished_run_too(tiny: Overrides) -> None:
    command = tiny("gpt2", "task=sst2", "task.max_train_samples=8")
    (folder,) = commands.finetune(*command)
    before = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    base, name = folder / "adapter" / "base", next(part for part in command if part.startswith("model.checkpoint="))
    assert peftkit.base_checkpoint(folder) == name.partition("=")[2] and not (base / "model.safetensors").exists()
    assert commands.finetune(*command, "export.with_base=true") == [folder]
    after = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert after["files"].keys() - before["files"].keys() >= {"adapter/base/model.safetensors"}
    assert {**after, "files": None} == {**before, "files": None}
    assert peftkit.base_checkpoint(folder) == str(base)
    stored, loaded = AutoModelForSequenceClassification.from_pretrained(base), peftkit.load(folder)[0].get_base_model()
    assert torch.equal(stored.transformer.h[0].ln_1.weight, loaded.transformer.h[0].ln_1.weight)
    assert '"adapter/base", config=config)' in (folder / "README.md").read_text(encoding="utf-8")


def test_a_base_that_was_not_saved_as_a_whole_counts_as_none(tiny: Overrides, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tiny("gpt2", "task=sst2", "task.max_train_samples=8")
    (folder,) = commands.finetune(*command)
    stored, save = folder / "adapter" / "base" / "model.safetensors", GPT2ForSequenceClassification.save_pretrained
    shipped = sorted((folder / "adapter").rglob("*"))

    def killed(model: GPT2ForSequenceClassification, to: Path) -> None:
        save(model, to)
        weights = next(Path(to).glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:1000])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(GPT2ForSequenceClassification, "save_pretrained", killed)
        commands.run([*command, "export.with_base=true"])
    assert sorted((folder / "adapter").rglob("*")) == shipped
    # killed after the base was saved, and before it was recorded
    stored.write_bytes(b"")
    assert commands.finetune(*command, "export.with_base=true") == [folder]
    size = json.loads((folder / "result.json").read_text(encoding="utf-8"))["files"]["adapter/base/model.safetensors"]
    assert size["bytes"] == stored.stat().st_size > 1000
    assert not [each for each in folder.iterdir() if each.name.startswith(".base")]
