"""job=ood: the detectors of a run are those that plain transformers and scikit-learn compute from its saved model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import commands
from helpers.commands import check
from scipy.special import logsumexp, softmax
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score, roc_curve

import peftkit
from peftkit.config import UserError
from peftkit.data.datasets import load_task_dataset
from peftkit.data.miniglue import sentences
from peftkit.pipeline.artifacts import load_bundle
from peftkit.pipeline.outside import text_outputs
from peftkit.pipeline.report import make_report
from peftkit.results.run_result import RunResult

Overrides = Callable[..., list[str]]


def measured(overrides: list[str], *other: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a new run, and what job=ood writes."""
    (folder,) = commands.finetune(*overrides)
    file = commands.run(["job=ood", f"run={folder}", "source=offline", *other])
    return folder, json.loads(Path(file).read_text(encoding="utf-8"))


def rates(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
    kept = np.array([1] * len(inside) + [0] * len(outside))
    values = np.concatenate([inside, outside])
    false, true, _ = roc_curve(kept, -values, drop_intermediate=False)
    return float(roc_auc_score(1 - kept, values)), float(false[np.argmax(true >= 0.95)])


def check_detectors(
    found: dict[str, Any], logits: list[np.ndarray], features: list[np.ndarray], labels: list[int]
) -> None:
    """Compare with values computed here; the groups are training, validation and other texts."""
    means = np.stack([features[0][np.array(labels) == each].mean(axis=0) for each in sorted({*labels})])
    places = np.searchsorted(sorted({*labels}), labels)
    covariance = LedoitWolf(assume_centered=True).fit(features[0] - means[places])
    expected = {
        "max_softmax": [-softmax(each, axis=-1).max(axis=-1) for each in logits[1:]],
        "energy": [-logsumexp(each, axis=-1) for each in logits[1:]],
        "mahalanobis": [
            np.min([covariance.mahalanobis(each - mean) for mean in means], axis=0) for each in features[1:]
        ],
    }
    for name, values in expected.items():
        each = found["detectors"][name]
        assert (each["auroc"], each["fpr_at_95_tpr"]) == pytest.approx(rates(*values), abs=0.006), name  # texts swap


def test_the_detectors_are_those_of_the_saved_model(
    tiny: Overrides, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines, texts = [*sentences(60, seed=7)], tmp_path / "other.jsonl"
    texts.write_text("".join(json.dumps({"body": line}) + "\n" for line in lines))
    overrides = tiny("bert", "task=sst2", "train.learning_rate=3e-3", "model.pooling=cls", "train.bf16=false")
    folder, found = measured(overrides, f"task.dataset={texts}", "task.text=[body]")
    assert (found["inside"]["texts"], found["outside"]["texts"], found["trained_on"]) == (24, 60, 24)
    assert found["outside"]["columns"] == ["body"]
    assert (folder / f"ood-sst2-other-{found['outside']['source']['revision'][:8]}.json").is_file()
    data = load_task_dataset(RunResult(folder).config.task, None, "offline")
    groups = [*(data.splits[name]["sentence"][:] for name in ("train", "validation"))]
    groups.append(lines)
    model, tokenizer = peftkit.load(folder)
    logits, features = [], []
    with torch.no_grad():
        for group in groups:
            inputs = [tokenizer(text, return_tensors="pt") for text in group]
            logits.append(torch.cat([model(**each).logits for each in inputs]).double().numpy())
            pooled = [model.base_model.model.bert(**each).pooler_output for each in inputs]
            features.append(torch.cat(pooled).double().numpy())
    check_detectors(found, logits, features, data.splits["train"]["label"][:])
    assert f"{found['detectors']['energy']['auroc']:.3f}" in capsys.readouterr().out
    report = make_report(folder).page
    assert "Texts of another kind" in report and "mahalanobis" in report


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full", "prefix", "prompt"])
@pytest.mark.parametrize("model", ["bert", "roberta", "distilbert", "gpt2", "t5_encoder"])
def test_the_head_computes_the_scores_from_the_features(
    checkpoints: dict[str, Path], tiny: Overrides, model: str, method: str
) -> None:
    checkpoints.setdefault("t5_encoder", checkpoints["t5"])
    (folder,) = commands.finetune(*tiny(model, f"method={method}", "task=mrpc", "train.bf16=false"))
    run = RunResult(folder)
    bundle, data = load_bundle(run), load_task_dataset(run.config.task, None, "offline")
    found = text_outputs(run.config, bundle, data.splits["validation"].select(range(9)))
    assert found.features is not None and found.features.shape == (9, 64)
    head = [layer for layer in bundle.model.modules() if getattr(layer, "out_features", 0) == 2][-1]
    scores = torch.nn.functional.linear(torch.tensor(found.features), head.weight, head.bias).detach().numpy()
    assert np.abs(scores - found.scores).max() < 1e-5


@pytest.mark.slow
def test_text_to_text_has_likelihoods_and_the_encoder_s_states(tiny: Overrides) -> None:
    _, found = measured(tiny("t5", "task=sst2"), "task=cola", "task.max_eval_samples=30")
    assert list(found["detectors"]) == ["max_softmax", "energy", "mahalanobis"] and found["outside"]["texts"] == 30


@pytest.mark.slow
def test_a_prompt_has_no_features(tiny: Overrides, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = measured(tiny("gpt2", "method=zero_shot", "task=sst2"), "ood.shuffle=true")
    assert list(found["detectors"]) == ["max_softmax", "energy"] and "prompted" in found["left_out"]["mahalanobis"]
    assert "mahalanobis: left out" in capsys.readouterr().out


def test_pairs_and_several_texts(tiny: Overrides, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (pairs,) = commands.finetune(*tiny("bert", "task=mrpc"))
    run = ["job=ood", f"run={pairs}", "source=offline", f"output={tmp_path}/found.json"]
    commands.run([*run, "ood.shuffle=true"])
    assert json.loads((tmp_path / "found.json").read_text())["outside"]["columns"] == ["sentence1", "sentence2"]
    with pytest.raises(UserError, match="the run reads sentence1 and sentence2, task=cola has one text, sentence"):
        commands.run([*run, "task=cola"])
    with pytest.raises(UserError, match="task=mrpc has the texts of the run itself"):
        commands.run([*run, "task=mrpc"])
    (single,) = commands.finetune(*tiny("bert", "task=sst2"))
    commands.run(["job=ood", f"run={single}", "source=offline", "task=rte"])
    assert "task=rte has 2 texts, the run reads 1: sentence2 is left out" in capsys.readouterr().err


def test_what_to_type_is_stated_before_anything_loads(tmp_path: Path) -> None:
    assert (
        check(["job=ood", "run=x"])[0] == "job=ood needs texts of another kind; set task=cola, or set ood.shuffle=true"
    )
    message = "ood.shuffle=true takes the run's own texts, which task would replace; drop task, or drop it"
    assert check(["job=ood", "run=x", "task=cola", "ood.shuffle=true"])[0] == message


@pytest.mark.slow
def test_a_run_of_numbers_is_refused(tiny: Overrides) -> None:
    (folder,) = commands.finetune(*tiny("bert", "task=stsb"))
    (message,) = check(["job=ood", f"run={folder}", "ood.shuffle=true"])
    assert message.endswith(
        "is a run of regression, which has no class probabilities; name a run of task=classification or task=multilabel"
    )
