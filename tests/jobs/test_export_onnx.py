"""format=onnx: the graph answers as the run, and the code of its card needs onnxruntime, tokenizers and numpy alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import commands
from huggingface_hub import ModelCard
from torch import nn

import peftkit
from peftkit.pipeline.exports.onnx_session import shape_difference
from peftkit.results.run_result import RunResult

Train = Callable[..., Path]
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
ALONE = '\nimport sys\nassert not {"torch", "transformers", "peft", "peftkit"} & {*sys.modules}\n'
CARD_TEXTS = ["a fine film", "a long and dull film"]
TEXTS = ("the actor saw the film", "a critic left")


@pytest.fixture
def train(tiny: Callable[..., list[str]], tmp_path: Path) -> Train:
    """Return a function that trains a run whose scores differ much between examples."""
    rows: dict[str, Any] = {
        "multilabel": [{"text": text, "labels": [text[:1], "x"]} for text in TEXTS],
        "token_classification": [
            {"tokens": text.split(), "tags": [f"B-{word[:1]}" for word in text.split()]} for text in TEXTS
        ],
        "question_answering": [
            {"question": "who ?", "context": text, "answers": {"text": [text[2:7]], "answer_start": [2]}}
            for text in TEXTS
        ],
        "classification": [{"a.b": text, "3": f"{text} ,", "label": text[:1]} for text in TEXTS],
        "causal_lm": [{"text": text} for text in TEXTS],
        "retrieval": [{"query": text, "document": f"{text} ."} for text in TEXTS],
    }

    def run(model: str, method: str, task: str = "sst2", *more: str) -> Path:
        own = []
        if task in rows:
            none = {"answers": {"text": [], "answer_start": []}} if "task.no_answer=true" in more else {}
            lines = [json.dumps(row | none) + "\n" for row in rows[task] * 12]
            (tmp_path / f"{task}.jsonl").write_text("".join(lines))
            own = [f"task.dataset={tmp_path}/{task}.jsonl", "task.max_length=32"]
            own += ["task.stride=4"] if task == "question_answering" else []
            own += ["task.text=[text]"] if task in ("causal_lm", "multilabel") else []
            own += ["task.text=[a.b,3]"] if task == "classification" else []
        settings = ("train.bf16=false", "train.learning_rate=0.03")
        (folder,) = commands.finetune(*tiny(model, f"method={method}", f"task={task}", *own, *settings, *more))
        return folder

    return run


def exported(run: Path, *more: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of an export, and its record."""
    folder = Path(commands.run(["job=export", f"run={run}", "format=onnx", "source=offline", *more]))
    return folder, json.loads((folder / "export.json").read_text(encoding="utf-8"))


def printed(folder: Path, texts: str | None = None, end: str = "") -> list[str]:
    """Run the code of a card, with other texts and further lines, in a process of its own; return what it prints."""
    (code,) = CODE.findall((folder / "README.md").read_text(encoding="utf-8"))
    code = code if texts is None else re.sub(r"(?m)^texts = .*$", lambda _: f"texts = {texts}", code)
    done = subprocess.run([sys.executable, "-c", code + end + ALONE], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_code_of_the_card_gives_the_probabilities_of_the_run(train: Train) -> None:
    run, temperature = train("bert", "lora", "sst2", "calibration.holdout=0.4"), 8.0
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    before = result["calibration"]["temperature"]
    result["calibration"]["temperature"] = temperature  # ten held-out examples give any
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    folder, record = exported(run, "export.int8=true")
    assert record["max_difference"] < 1e-5 and record["details"]["merged"]
    rounded = record["details"]["int8"]
    assert 0 < rounded["max_difference"] < 0.5 and rounded["scores"].keys() == {"fp32", "int8"}
    assert (folder / "model_int8.onnx").stat().st_size == rounded["bytes"] < (folder / "model.onnx").stat().st_size
    predictions = RunResult(run).predictions()
    rounded_graph = 'onnxruntime.InferenceSession("model_int8.onnx").run(["probabilities"], inputs)[0]'
    end = f"\nprint(json.dumps([found.tolist(), {rounded_graph}.tolist()]))\n"
    lines = printed(folder, repr(list(predictions["sentence"])), end)
    found, of_int8 = np.array(json.loads(lines[-1]))
    expected = np.stack(predictions["probabilities"]) ** (before / temperature)
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    # a graph of 8 bits rounds the inputs by their range in a batch
    assert rounded["max_difference"] == pytest.approx(np.abs(found - of_int8).max(), rel=0.3)
    for line, label in zip(lines, predictions["prediction_name"], strict=False):
        assert f" {label} " in line
    assert len(printed(folder)) == 2
    text = (folder / "README.md").read_text(encoding="utf-8")
    data, score = ModelCard(text).data, result["scores"]["accuracy"]["value"]
    assert data.library_name == "onnx" and data.tags == ["peftkit", "lora", "onnx"] and data.base_model is None
    assert [(each.metric_type, each.metric_value) for each in data.eval_results] == [("accuracy", score)]
    assert "replaces nyu-mll/glue" in text and "Its probabilities are of logits divided by a temperature of 8" in text
    assert str(run.parents[5]) not in text and "/checkpoints" not in text


METHODS = ("lora", "ia3", "full", "adapter", "prefix", "prompt")
TASKS = ("stsb", "mrpc", "multilabel", "token_classification", "question_answering", "retrieval")
EVERY = [(model, method) for model in ("bert", "gpt2", "t5") for method in METHODS]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "method"), [*EVERY, ("distilbert", "lora"), ("smollm2", "lora")])
def test_every_method_answers_in_onnxruntime_as_the_run(train: Train, model: str, method: str) -> None:
    run = train(model, method)
    folder, record = exported(run, f"export.int8={method == 'lora'}")
    assert record["max_difference"] < 1e-5 and record["details"]["shape_difference"] < 1e-5
    assert record["details"]["merged"] == (method in ("lora", "ia3", "full"))
    (line,) = printed(folder)[:1]
    (found,) = peftkit.predict(run, ["a fine film"])
    assert str(found.prediction) in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "task", "more"),
    [
        *((model, task, ()) for model in ("bert", "gpt2") for task in TASKS),
        *((model, "question_answering", ("task.no_answer=true",)) for model in ("bert", "gpt2")),
        *(("t5", task, ()) for task in (*TASKS[:2], "classification")),
    ],
)
def test_every_head_answers_in_onnxruntime_as_the_run(
    train: Train, model: str, task: str, more: tuple[str, ...]
) -> None:
    run = train(model, "lora", task, *more)
    folder, record = exported(run)
    assert record["max_difference"] < 1e-5 and record["details"]["shape_difference"] < 1e-5
    lines = printed(folder)
    if task == "retrieval":
        vectors = peftkit.embed(CARD_TEXTS, run=run)
        found = np.array(re.findall(r"-?[0-9.]+(?:e-?[0-9]+)?", " ".join(lines)), float).reshape(2, 2)
        np.testing.assert_allclose(found, vectors @ vectors.T, atol=1e-5)
    elif task == "token_classification":
        words = CARD_TEXTS[0].split()
        (answer,) = peftkit.predict(run, [" ".join(words)])
        assert [line.split()[1] for line in lines] == list(answer.prediction)
    elif task == "multilabel":
        for line, answer in zip(lines, peftkit.predict(run, CARD_TEXTS), strict=True):
            assert str(list(answer.prediction)) in line
    elif task == "question_answering":
        (answer,) = peftkit.predict(run, [("Who wrote it?", "It was written by Ada Lovelace in 1843.")])
        assert lines == [answer.prediction or "(no answer)"] and (not answer.prediction) == bool(more)
    elif task == "stsb":
        (answer,) = peftkit.predict(run, [CARD_TEXTS])
        assert float(lines[-1].split()[-1]) == pytest.approx(answer.prediction, abs=1e-4)
    else:
        (answer,) = peftkit.predict(run, [CARD_TEXTS])
        assert f" {answer.prediction} " in lines[-1]


def test_a_model_whose_scores_depend_on_padding_is_found() -> None:
    class Mean(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=input_ids.float().mean(1, keepdim=True), tokens=input_ids.float() * 2)

    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    batch = {"input_ids": torch.tensor([[3, 1, 0], [2, 0, 0]]), "attention_mask": mask}
    alone = [{name: each[row : row + 1, mask[row].bool()] for name, each in batch.items()} for row in range(2)]
    assert shape_difference(Mean(), [batch, *alone]) == pytest.approx(2 / 3)


def test_a_run_that_generates_text_is_refused(train: Train) -> None:
    run = train("gpt2", "lora", "causal_lm")
    (message,) = commands.check(["job=export", f"run={run}", "format=onnx"])
    assert "is a language model (causal_lm)" in message and "format=transformers" in message.fix
    (message,) = commands.check(["job=export", f"run={run}", "format=transformers", "export.int8=true"])
    assert "export.int8 is for format=onnx" in message


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch, train: Train) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    (message,) = commands.check(["job=export", f"run={train('bert', 'lora')}", "format=onnx"])
    assert message == "format=onnx needs the package onnxscript; pip install 'peftkit[onnx]'"
