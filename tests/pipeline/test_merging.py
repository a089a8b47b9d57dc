"""A run over a quantised base says what its merging changes, before anybody merges it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from helpers import commands
from transformers import AutoModelForSequenceClassification

import peftkit
from peftkit.data.miniglue import miniglue
from peftkit.pipeline import verify

Words = Callable[..., list[str]]
FIGURES = {"rows", "max_difference", "mean_difference", "changed_predictions", "dtype"}


def finetune(words: list[str]) -> tuple[Path, dict]:
    (folder,) = commands.finetune(*words)
    return folder, json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("model", "method"),
    [("gpt2", "qlora"), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("t5", "qlora"), ("gpt2", "ia3")))],
)
def test_the_drift_of_a_mergeable_method_stands_in_result_card_and_console(
    tiny: Words, capsys: pytest.CaptureFixture[str], model: str, method: str
) -> None:
    words = tiny(model, f"method={method}", "task=sst2", "++method.quantization.load_in_4bit=true")
    folder, result = finetune(words)
    found = result["merge"]
    assert set(found) == FIGURES
    assert found["rows"] == 24 and 0 <= found["changed_predictions"] <= 24 and found["dtype"] == "float32"
    assert 0 < found["mean_difference"] < found["max_difference"]
    said = f"merged into the float32 base, {found['changed_predictions']} of 24 predictions change"
    assert said in (folder / "README.md").read_text()
    assert said in capsys.readouterr().err
    commands.merge(folder)
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_told_is_what_job_merge_writes(tiny: Words) -> None:
    folder, result = finetune(tiny("bert", "method=qlora", "task=sst2", "train.bf16=false", "train.learning_rate=0.01"))
    commands.merge(folder)
    merged = AutoModelForSequenceClassification.from_pretrained(folder / "merged").eval()
    _, tokenizer = peftkit.load(folder)
    told = pq.read_table(folder / "predictions.parquet").to_pylist()
    texts = {row["idx"]: row["sentence"] for row in miniglue("sst2")["validation"]}
    batch = tokenizer([texts[row["id"]] for row in told], return_tensors="pt", padding=True)
    with torch.no_grad():
        moved = (merged(**batch).logits - torch.tensor([row["scores"] for row in told])).abs()
    assert result["merge"]["max_difference"] == pytest.approx(float(moved.max()), rel=0.05)
    assert result["merge"]["mean_difference"] == pytest.approx(float(moved.mean()), rel=0.05)


@pytest.mark.slow
def test_a_method_that_does_not_merge_and_a_base_in_full_precision_have_no_such_entry(tiny: Words) -> None:
    _, result = finetune(tiny("bert", "method=adapter", "+method.quantization.load_in_4bit=true"))
    assert "merge" not in result
    _, result = finetune(tiny("bert", "method=lora"))
    assert "merge" not in result


def test_a_base_too_large_to_load_whole_leaves_a_reason(tiny: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(needed: int) -> None:
        raise MemoryError(f"{needed} bytes are not free")

    monkeypatch.setattr(verify, "_check_memory", refuse)
    folder, result = finetune(tiny("bert", "method=qlora"))
    assert result["meta"]["status"] == "finished"
    assert result["merge"]["rows"] == 0 and "bytes are not free" in result["merge"]["reason"]
    assert "changes by merging were not measured" in (folder / "README.md").read_text()
    monkeypatch.undo()
    with pytest.raises(MemoryError, match="GiB, and"):
        verify._check_memory(2**60)
