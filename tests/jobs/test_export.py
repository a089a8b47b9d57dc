"""job=export: what it writes answers as the run in other programs, or is not written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import commands
from helpers.merge_models import losing
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import peftkit
from peftkit.config.errors import ExportError
from peftkit.data.miniglue import sentences
from peftkit.pipeline.exports import transformers
from peftkit.results.run_result import RunResult

Trained = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return the folder of a run with large changes, trained once a module: trained("bert", "lora", "sst2")."""
    common = "task.max_eval_samples=12", "train.bf16=false", "train.learning_rate=0.05"
    find = commands.trained_once(checkpoints, tmp_path_factory.mktemp("runs"), *common)
    return lambda model, method, *more: find(model, method, *(more or ("task=sst2",)))


def exported(run: Path, *more: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of an export, and its record."""
    folder = Path(commands.run(["job=export", f"run={run}", "source=offline", *more]))
    return folder, json.loads((folder / "export.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("pooling", ["mean", pytest.param("cls", marks=pytest.mark.slow)])
def test_a_pipeline_of_an_export_gives_the_probabilities_of_the_run(trained: Trained, pooling: str) -> None:
    run = trained("bert", "lora", "task=sst2", f"model.pooling={pooling}")
    folder = peftkit.export(run, "transformers", source="offline")
    record = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    predictions = RunResult(run).predictions()
    is_custom = pooling == "mean"
    classify = pipeline("text-classification", model=str(folder), top_k=None, trust_remote_code=is_custom)
    assert is_custom == (folder / "modeling_peftkit.py").is_file()
    found = classify(list(predictions["sentence"]), truncation=True)
    for scores, expected in zip(found, predictions["probabilities"], strict=True):
        by_label = {each["label"]: each["score"] for each in scores}
        np.testing.assert_allclose([by_label["negative"], by_label["positive"]], expected, atol=1e-5)
    assert record["status"] == "finished" and record["examples"] == 12 and record["same_predictions"] == 1
    assert record["max_difference"] < 1e-5 and record["compared"] == "probabilities"
    assert record["bytes"]["export"] > record["bytes"]["run"] and min(record["latency_ms"].values()) > 0


KINDS = {
    "pair": ("bert", ["task=mrpc"]),
    "regression": ("bert", ["task=stsb"]),
    "decoder": ("gpt2", ["task=mrpc"]),
    "text_to_text": ("t5", ["task=sst2"]),
    "t5_encoder": ("t5_encoder", ["task=sst2"]),
    "multilabel": ("bert", ["task=multilabel", "task.text=[text]", "task.label=tags"]),
    "tokens": (
        "bert",
        ["task=token_classification", "task.text=[words]", "task.label=classes", "task.metrics=[token_accuracy]"],
    ),
    "tokens_t5": (
        "t5_encoder",
        ["task=token_classification", "task.text=[words]", "task.label=classes", "task.metrics=[token_accuracy]"],
    ),
    "spans": ("bert", ["task=question_answering", "task.text=[text,context]", "task.label=span", "task.stride=8"]),
    "answers": ("gpt2", ["task=causal_lm", "task.text=[text]", "task.label=answer", "task.max_target_length=4"]),
    "seq2seq": ("t5", ["task=seq2seq", "task.text=[text]", "task.label=answer", "task.max_target_length=4"]),
    "next_token": ("gpt2", ["task=causal_lm", "task.text=[text]", "task.label=null"]),
    "instructions": (
        "gpt2",
        ["task=instructions", "task.text=[text]", "task.label=answer", "task.max_target_length=4"],
    ),
    "retrieval": ("bert", ["task=retrieval", "task.text=[text,context]"]),
    "retrieval_t5": ("t5", ["task=retrieval", "task.text=[text,context]"]),
    "preferences": ("gpt2", ["task=preferences", "task.text=[text,answer,context]", "task.max_target_length=16"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_each_kind_is_exported(trained: Trained, tmp_path: Path, kind: str) -> None:
    model, overrides = KINDS[kind]
    if overrides[0].removeprefix("task=") not in ("sst2", "mrpc", "stsb"):
        file, rows = tmp_path / "own.jsonl", []
        for number, text in enumerate(sentences(24)):
            words = text.split()
            rows.append({
                "text": text, "tags": ["a", "b"][: number % 3], "words": words, "classes": ["x", "y"] * len(words),
                "context": f"{text} {words[-1]} {number}", "span": {"text": [words[0]], "answer_start": [0]},
                "answer": " ".join(words[:2]),
            })  # fmt: skip
            rows[-1]["classes"] = rows[-1]["classes"][: len(words)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        overrides = [*overrides, f"task.dataset={file}"]
    _, record = exported(trained(model, "lora", *overrides), "format=transformers")
    assert record["status"] == "finished" and record["max_difference"] < 1e-4
    assert record["same_text"] == (1 if kind in ("answers", "seq2seq", "instructions") else None)


@pytest.mark.slow
def test_an_export_gives_calibrated_probabilities(trained: Trained, tmp_path: Path) -> None:
    run = trained("bert", "ia3", "task=sst2", "model.pooling=cls", "calibration.holdout=0.4")
    record = json.loads((run / "result.json").read_text(encoding="utf-8"))
    record["calibration"]["temperature"] = 1.7  # ten held-out examples give any
    (run / "result.json").write_text(json.dumps(record), encoding="utf-8")
    folder, _ = exported(run, "format=transformers")
    file = tmp_path / "new.csv"
    file.write_text("sentence\na fine film\n")
    commands.predict(run, file)
    with (tmp_path / "new.predictions.csv").open(encoding="utf-8") as opened:
        (expected,) = csv.DictReader(opened)
    (found,) = pipeline("text-classification", model=str(folder))("a fine film")
    assert found["label"] == expected["prediction"]
    assert found["score"] == pytest.approx(float(expected["confidence"]), abs=1e-5)


def test_an_export_that_answers_otherwise_is_deleted_and_recorded(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, target = trained("bert", "lora", "task=sst2", "model.pooling=cls"), tmp_path / "mine"
    target.mkdir()
    (target / "export.json").write_text("earlier")
    monkeypatch.setattr(transformers, "merge_adapter", losing(transformers.merge_adapter, "classifier"))
    with pytest.raises(ExportError, match=r"probabilities of the export differ by 0\.\d+ from the run's"):
        exported(run, "format=transformers", f"output={target}")
    record = json.loads((run / "export-transformers.json").read_text(encoding="utf-8"))
    assert record["status"] == "failed" and "differ" in record["reason"]
    assert [*tmp_path.iterdir()] == [target] and (target / "export.json").read_text() == "earlier"


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("merge_adapter", ValueError, "no such layer"),
        ("check_without_peftkit", ExportError, "the export cannot be read: no such layer; nothing is written"),
    ],
)
def test_only_errors_of_reading_are_reported_as_such(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[Exception], reason: str
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no such layer")

    run = trained("bert", "lora", "task=sst2", "model.pooling=cls")
    monkeypatch.setattr(transformers, name, fail)
    with pytest.raises(kind, match=f"^{reason}$"):
        exported(run, "format=transformers")
    record = json.loads((run / "export-transformers.json").read_text(encoding="utf-8"))
    assert record["reason"].startswith(reason) or record["reason"] == f"ValueError: {reason}"


def test_a_head_over_texts_that_are_encoded_apart_is_refused(trained: Trained) -> None:
    run = trained("bert", "lora", "task=mrpc", "model.pairs=apart")
    for chosen in ("transformers", "onnx", "gguf"):
        (message,) = commands.check(["job=export", f"run={run}", f"format={chosen}"])
        assert "model.pairs=apart" in message and "peftkit.load" in message


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


@pytest.mark.parametrize(
    ("model", "method", "chosen", "message"),
    [
        (
            "bert",
            "adapter",
            "transformers",
            "method=adapter cannot be merged into the base, and PEFT has no such tuner",
        ),
        ("bert", "lora", "gguf", "format=gguf has no models with the head of task=sst2 (classification)"),
    ],
)
def test_what_a_format_lacks_is_refused(trained: Trained, model: str, method: str, chosen: str, message: str) -> None:
    (found,) = commands.check(["job=export", f"run={trained(model, method)}", f"format={chosen}"])
    assert message in found


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert", "t5"])
def test_an_adapter_of_peft_that_cannot_be_merged_is_kept_beside_its_base(trained: Trained, model: str) -> None:
    method = ["task=sst2", "method.config._target_=peft.PromptTuningConfig", "method.config.num_virtual_tokens=4"]
    run = trained(model, "peft", *method, "model.pooling=cls" if model == "bert" else "task.id=null")
    folder, record = exported(run, "format=transformers")
    assert record["details"]["base"] == "base" and record["max_difference"] < 1e-5
    assert (folder / "adapter_config.json").is_file() and (folder / "base" / "config.json").is_file()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert 'PeftModel.from_pretrained(base, ".")' in card and str(run.parents[4]) not in card


LANGUAGE = {
    "gpt2": ("lora", ["task=causal_lm", "task.text=[text]", "task.label=answer", "task.max_target_length=4"]),
    "smollm2": ("full", ["task=instructions", "task.text=[text]", "task.label=answer", "task.max_target_length=4"]),
}


@pytest.mark.parametrize("model", LANGUAGE)
def test_a_gguf_file_gives_the_logits_of_the_run(trained: Trained, tmp_path: Path, model: str) -> None:
    method, overrides = LANGUAGE[model]
    file = tmp_path / "own.jsonl"
    rows = [{"text": text, "answer": text.split()[0]} for text in sentences(24)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = trained(model, method, *overrides, f"task.dataset={file}")
    folder, record = exported(run, "format=gguf", "export.gguf_type=f32", f"output={tmp_path}/f32")
    assert record["max_difference"] < 1e-4 and record["same_text"] == 1
    mine, tokenizer = peftkit.load(run)
    arguments = {"gguf_file": "model.gguf"}
    more = record["details"]["arguments"]
    read = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, **arguments, **more).eval()
    ids = tokenizer("a fine film", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, mine(ids).logits, rtol=1e-5, atol=1e-4)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Its matrices are stored in f32." in card and 'gguf_file="model.gguf"' in card
    again = AutoTokenizer.from_pretrained(str(folder), **arguments)
    assert again.chat_template == tokenizer.chat_template and again("a fine film")["input_ids"] == ids[0].tolist()
    sizes = [record["bytes"]["export"]]
    for name in ("f16", "q8_0"):
        _, record = exported(run, "format=gguf", f"export.gguf_type={name}", f"output={tmp_path}/{name}")
        sizes.append(record["bytes"]["export"])
        assert 0 < record["max_difference"] < record["tolerance"]
    assert sizes == sorted(sizes, reverse=True)
