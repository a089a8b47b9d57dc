"""Pickled weights are read where their file is named, by torch's restricted unpickler, and from nowhere else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import check, choose
from helpers.fork_server import ForkServer
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import peftkit
from peftkit.config import ModelConfig, UserError
from peftkit.config.source import Source
from peftkit.methods import load_adapter
from peftkit.models import pickled
from peftkit.models.load import load_language_model
from peftkit.models.tokenizer import load_tokenizer
from peftkit.pipeline.artifacts import find_model

Overrides = Callable[..., list[str]]


class Planted:
    """Writes a file where a pickle of it is loaded without restrictions."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.file), "w")


@pytest.fixture
def folder(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the tiny BERT with its weights in pytorch_model.bin."""
    monkeypatch.setenv("PEFTKIT_HOME", str(tmp_path / "home"))
    copy = shutil.copytree(checkpoints["bert"], tmp_path / "tiny")
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    return copy


def test_a_folder_with_pickled_weights_is_refused_with_the_file_to_type(folder: Path) -> None:
    (error,) = check(["task=sst2", "model=bert", "source=offline", f"model.checkpoint={folder}"])
    assert error.fix == (f"model.checkpoint={folder}/pytorch_model.bin",)
    assert not check(["task=sst2", "model=bert", "source=offline", *error.fix])
    source = Source("folder", str(folder), folder=str(folder))
    with pytest.raises(UserError, match=r"has no \.safetensors files"):
        load_language_model(source, load_tokenizer(source))


def shard(file: Path) -> Path:
    """Split a file of weights into two; return their index."""
    weights = torch.load(file, weights_only=True)
    parts = {name: f"pytorch_model-0000{number % 2 + 1}-of-00002.bin" for number, name in enumerate(weights)}
    for part in {*parts.values()}:
        torch.save({name: weights[name] for name in weights if parts[name] == part}, file.with_name(part))
    file.unlink()
    index = file.with_name("pytorch_model.bin.index.json")
    index.write_text(json.dumps({"weight_map": parts}))
    return index


def choice(file: Path) -> ModelConfig:
    return choose(["task=sst2", "model=bert", "source=offline", f"model.checkpoint={file}"])[0].model


@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_named_file_is_converted_once(
    folder: Path, checkpoints: dict[str, Path], is_sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "pytorch_model.bin"
    file = shard(file) if is_sharded else file
    source = find_model(choice(file), "offline")
    converted = Path(str(source.folder))
    found, expected = (load_file(each / "model.safetensors") for each in (converted, checkpoints["bert"]))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    names = {each.name for each in checkpoints["bert"].iterdir()}
    assert {each.name for each in converted.iterdir()} == names and source.name == str(folder)
    monkeypatch.setattr(pickled, "convert", None)  # not called again
    assert find_model(choice(file), "offline") == source


@pytest.mark.slow
def test_a_run_on_a_named_file_is_loaded_again(folder: Path, tiny: Overrides, fork_server: ForkServer) -> None:
    file, environment = folder / "pytorch_model.bin", {"PEFTKIT_HOME": str(folder.parent / "home")}
    trained = fork_server.run(
        [*tiny("bert", "task=sst2", "method=lora"), f"model.checkpoint={file}"], folder, environment
    )
    assert trained.code == 0, trained.stderr
    (result,) = (folder.parent / "outputs").rglob("result.json")
    assert result.parents[2].name == "tiny" and json.loads(result.read_text())["gates"]["reload_difference"] <= 1e-4
    done = fork_server.run(["job=predict", f"run={result.parent}", "input=a fine film"], folder, environment)
    assert done.code == 0 and json.loads(done.stdout)["prediction"] in ("positive", "negative")


@pytest.mark.parametrize("place", ["checkpoint", "adapter"])
def test_code_in_a_pickle_is_not_run(folder: Path, checkpoints: dict[str, Path], place: str, tmp_path: Path) -> None:
    planted = {"bert.weight": Planted(tmp_path / "marker")}
    if place == "checkpoint":
        torch.save(planted, folder / "pytorch_model.bin")
        with pytest.raises(
            UserError, match=r"pytorch_model\.bin is refused: it is damaged, or contains more than weights"
        ):
            find_model(choice(folder / "pytorch_model.bin"), "offline")
    else:
        model: Any = AutoModelForSequenceClassification.from_pretrained(str(checkpoints["bert"]))
        get_peft_model(model, LoraConfig(task_type="SEQ_CLS")).save_pretrained(str(tmp_path / "run" / "adapter"))
        adapter = tmp_path / "run" / "adapter"
        (adapter / "adapter_model.safetensors").unlink()
        torch.save(planted, adapter / "adapter_model.bin")
        with pytest.raises(UserError, match=r"adapter_model\.bin is refused: pickled weights can contain code"):
            load_adapter(AutoModelForSequenceClassification.from_pretrained(str(checkpoints["bert"])), adapter)
    assert not (tmp_path / "marker").exists()


def test_an_index_names_files_of_its_folder_only(folder: Path) -> None:
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../pytorch_model.bin"}}))
    with pytest.raises(UserError, match="expected the names of files in weight_map"):
        find_model(choice(index), "offline")


def test_nothing_in_the_package_unpickles_without_restrictions() -> None:
    package = Path(peftkit.__file__).parent
    lines = [line for file in package.rglob("*.py") for line in file.read_text().splitlines()]
    loads = [line for line in lines if "torch.load(" in line]
    assert loads and all("weights_only=True" in line for line in loads)
    assert not [
        line for line in lines if "import pickle" in line or "joblib.load" in line or "allow_pickle=True" in line
    ]
