"""A run with a wrong artifact or model fails; on a quantized base the effect of merging is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from helpers import commands
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import peftkit
from peftkit.data.miniglue import miniglue
from peftkit.jobs import stages
from peftkit.models import classifiers
from peftkit.pipeline import verify

Overrides = Callable[..., list[str]]


def failed(overrides: list[str]) -> str:
    out = Path(next(word for word in overrides if word.startswith("out=")).removeprefix("out="))
    with pytest.raises(Exception, match=r".") as error:
        commands.finetune(*overrides)
    (file,) = out.rglob("result.json")
    meta = json.loads(file.read_text())["meta"]
    assert meta["status"] == "failed"
    assert meta["reason"] == str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "method", ["lora", pytest.param("prefix", marks=pytest.mark.slow), pytest.param("full", marks=pytest.mark.slow)]
)
def test_measured_differences_are_in_the_result(tiny: Overrides, method: str) -> None:
    (folder,) = commands.finetune(*tiny("bert", f"method={method}", "train.bf16=false"))
    gates = json.loads((folder / "result.json").read_text())["gates"]
    assert gates["rows"] == 16
    assert gates["reload_difference"] < 1e-5 and gates["padding_difference"] < 1e-4


@pytest.mark.parametrize("lost", [pytest.param("classifier", marks=pytest.mark.slow), "lora_B"])
def test_an_artifact_that_lost_weights_fails_the_run(
    tiny: Overrides, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    save = stages.export_artifact

    def losing(*arguments):
        artifact = save(*arguments)
        file = artifact / "adapter_model.safetensors"
        weights = {name: weight * (lost not in name) for name, weight in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
        return artifact

    monkeypatch.setattr(stages, "export_artifact", losing)
    overrides = tiny("bert", "train.learning_rate=0.1", "train.bf16=false")
    assert "the saved artifact's scores differ from the trained model's by" in failed(overrides)


def test_an_artifact_that_cannot_be_loaded_fails_the_run(tiny: Overrides, monkeypatch: pytest.MonkeyPatch) -> None:
    save = stages.export_artifact

    def losing(*arguments):
        artifact = save(*arguments)
        (artifact / "adapter_config.json").unlink()
        return artifact

    monkeypatch.setattr(stages, "export_artifact", losing)
    assert "cannot be loaded in a fresh process" in failed(tiny("bert"))


def test_a_model_that_reads_its_padding_fails_the_run(tiny: Overrides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "masked_mean", lambda hidden, mask: torch.mean(hidden, dim=1))
    assert "with the padding of its batch" in failed(tiny("bert", "model.pooling=mean", "train.bf16=false"))


FIGURES = {"rows", "max_difference", "mean_difference", "changed_predictions", "dtype"}


def finetuned(overrides: list[str]) -> tuple[Path, dict]:
    (folder,) = commands.finetune(*overrides)
    return folder, json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("model", "method"),
    [("gpt2", "qlora"), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("t5", "qlora"), ("gpt2", "ia3")))],
)
def test_the_drift_of_a_mergeable_method_is_in_result_card_and_console(
    tiny: Overrides, capsys: pytest.CaptureFixture[str], model: str, method: str
) -> None:
    overrides = tiny(model, f"method={method}", "task=sst2", "++method.quantization.load_in_4bit=true")
    folder, result = finetuned(overrides)
    found = result["merge"]
    assert set(found) == FIGURES
    assert found["rows"] == 24 and 0 <= found["changed_predictions"] <= 24 and found["dtype"] == "float32"
    assert 0 < found["mean_difference"] < found["max_difference"]
    message = f"merged into the float32 base, {found['changed_predictions']} of 24 predictions change"
    assert message in (folder / "README.md").read_text()
    assert message in capsys.readouterr().err
    commands.merge(folder)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_reported_drift_is_that_of_the_merged_checkpoint(tiny: Overrides) -> None:
    folder, result = finetuned(
        tiny("bert", "method=qlora", "task=sst2", "train.bf16=false", "train.learning_rate=0.01")
    )
    commands.merge(folder)
    merged = AutoModelForSequenceClassification.from_pretrained(folder / "merged").eval()
    _, tokenizer = peftkit.load(folder)
    predictions = pq.read_table(folder / "predictions.parquet").to_pylist()
    texts = {row["idx"]: row["sentence"] for row in miniglue("sst2")["validation"]}
    batch = tokenizer([texts[row["id"]] for row in predictions], return_tensors="pt", padding=True)
    with torch.no_grad():
        moved = (merged(**batch).logits - torch.tensor([row["scores"] for row in predictions])).abs()
    assert result["merge"]["max_difference"] == pytest.approx(float(moved.max()), rel=0.05)
    assert result["merge"]["mean_difference"] == pytest.approx(float(moved.mean()), rel=0.05)


@pytest.mark.slow
def test_a_method_that_does_not_merge_and_a_base_in_full_precision_have_no_such_entry(tiny: Overrides) -> None:
    _, result = finetuned(tiny("bert", "method=adapter", "+method.quantization.load_in_4bit=true"))
    assert "merge" not in result
    _, result = finetuned(tiny("bert", "method=lora"))
    assert "merge" not in result


def test_a_base_too_large_to_load_whole_leaves_a_reason(tiny: Overrides, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(needed: int) -> None:
        raise MemoryError(f"{needed} bytes are not free")

    monkeypatch.setattr(verify, "_check_memory", refuse)
    folder, result = finetuned(tiny("bert", "method=qlora"))
    assert result["meta"]["status"] == "finished"
    assert result["merge"]["rows"] == 0 and "bytes are not free" in result["merge"]["reason"]
    assert "changes by merging were not measured" in (folder / "README.md").read_text()
    monkeypatch.undo()
    with pytest.raises(MemoryError, match="GiB, and"):
        verify._check_memory(2**60)
