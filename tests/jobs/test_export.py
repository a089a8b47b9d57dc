"""job=export: what it writes answers as the run in other programs, or is not written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import commands
from transformers import pipeline

from peftkit.config import UserError
from peftkit.config.errors import ExportError
from peftkit.pipeline.exports import transformers
from peftkit.results.run_result import RunResult

Trained = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return the folder of a run with large changes, trained once a module: trained("bert", "lora", "sst2")."""
    out, done = tmp_path_factory.mktemp("runs"), {}

    def find(model: str, method: str, *more: str) -> Path:
        key = (model, method, *more)
        if key not in done:
            (done[key],) = commands.finetune(
                f"model={model}", f"model.checkpoint={checkpoints[model]}", "source=offline", f"out={out}",
                f"method={method}", "task.max_train_samples=24", "task.max_eval_samples=12", "train.num_train_epochs=1",
                "train.per_device_train_batch_size=8", "train.disable_tqdm=true", "train.bf16=false",
                "train.learning_rate=0.05", *(more or ("task=sst2",)),
            )  # fmt: skip
        return done[key]

    return find


def exported(run: Path, *more: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of an export, and its record."""
    folder = Path(commands.run(["job=export", f"run={run}", "source=offline", *more]))
    return folder, json.loads((folder / "export.json").read_text(encoding="utf-8"))


def test_a_pipeline_of_an_export_gives_the_probabilities_of_the_run(trained: Trained) -> None:
    run = trained("bert", "lora")
    folder, record = exported(run, "format=transformers")
    predictions = RunResult(run).predictions()
    classify = pipeline("text-classification", model=str(folder), top_k=None)
    found = classify(list(predictions["sentence"]), truncation=True)
    for scores, expected in zip(found, predictions["probabilities"], strict=True):
        by_label = {each["label"]: each["score"] for each in scores}
        np.testing.assert_allclose([by_label["negative"], by_label["positive"]], expected, atol=1e-5)
    assert record["status"] == "finished" and record["examples"] == 12 and record["same_predictions"] == 1
    assert record["max_difference"] < 1e-5 and record["compared"] == "probabilities"
    assert record["bytes"]["export"] > record["bytes"]["run"] and min(record["latency_ms"].values()) > 0


def test_an_export_that_answers_otherwise_is_deleted_and_recorded(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, target = trained("bert", "lora"), tmp_path / "mine"
    folder, _ = exported(run, "format=transformers", f"output={target}", "export.samples=4")
    weights = (folder / "model.safetensors").read_bytes()
    merge = transformers.merge_adapter

    def losing(model: Any) -> Any:
        found = merge(model)
        torch.nn.init.zeros_(found.classifier.weight)
        return found

    monkeypatch.setattr(transformers, "merge_adapter", losing)
    with pytest.raises(ExportError, match=r"probabilities of the export differ by 0\.\d+ from the run's"):
        exported(run, "format=transformers", f"output={target}")
    record = json.loads((run / "export-transformers.json").read_text(encoding="utf-8"))
    assert record["status"] == "failed" and "differ" in record["reason"]
    assert [*tmp_path.iterdir()] == [target] and (target / "model.safetensors").read_bytes() == weights


def test_a_folder_with_other_files_is_not_replaced(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    command = ["job=export", f"run={trained('bert', 'lora')}", "format=transformers", f"output={tmp_path}"]
    (message,) = commands.check(command)
    assert "has other files" in message and message.fix == (f"output={tmp_path}/transformers",)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "job=export needs the format; set format=transformers"),
        (("format=transformer",), "did you mean format=transformers?"),
    ],
)
def test_a_format_is_named(trained: Trained, overrides: tuple[str, ...], message: str) -> None:
    (found,) = commands.check(["job=export", f"run={trained('bert', 'lora')}", *overrides])
    assert message in found


def test_what_cannot_be_exported_is_refused(trained: Trained) -> None:
    with pytest.raises(UserError, match="cannot be merged"):
        exported(trained("bert", "adapter"), "format=transformers")
