"""Heads fitted by scikit-learn: equal to plain scikit-learn, saved without pickles, and searched like other methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import commands
from helpers.commands import check, choose
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import peftkit
from peftkit.config.search_space import candidates, extended_grids
from peftkit.data.datasets import load_task_dataset
from peftkit.models.bags import word_tokenizer
from peftkit.results.run_result import RunResult

Overrides = Callable[..., list[str]]
FP32 = "train.bf16=false"


def trained(overrides: list[str]) -> tuple[Path, Any, Any]:
    """Return a new run's folder, its predictions, and its data."""
    (folder,) = commands.finetune(*overrides, FP32)
    run = RunResult(folder)
    return folder, run.predictions(), load_task_dataset(run.config.task, None, "offline")


def joined(table: Any, columns: list[str]) -> list[str]:
    return ["\n".join(row) for row in zip(*(table[column][:] for column in columns), strict=True)]


@pytest.mark.parametrize("task", ["sst2", "mnli", "stsb"])
def test_a_bag_of_words_is_that_of_scikit_learn(tiny: Overrides, task: str) -> None:
    folder, found, data = trained(tiny("bert", "method=bag_of_words", f"task={task}", "task.max_train_samples=200"))
    columns = RunResult(folder).config.task.text
    train, first = data.splits["train"], next(name for name in data.splits if name != "train")
    estimator = Ridge(alpha=1 / 20) if task == "stsb" else LogisticRegression(C=10, max_iter=1000)
    plain = make_pipeline(TfidfVectorizer(), estimator).fit(joined(train, columns), train["label"][:])
    found, texts = found[found["split"] == first], joined(data.splits[first], columns)
    if task == "stsb":
        assert found["prediction"].to_numpy() == pytest.approx(plain.predict(texts), abs=1e-3)
        return
    assert np.stack(found["probabilities"]) == pytest.approx(plain.predict_proba(texts), abs=1e-4)


@pytest.mark.parametrize(("model", "method"), [("bert", "features"), ("bert", "mean_embedding"), ("gpt2", "features")])
def test_features_are_those_of_the_frozen_checkpoint(
    tiny: Overrides, checkpoints: dict[str, Path], model: str, method: str
) -> None:
    pooling = ["model.pooling=mean"] if model == "bert" else []
    folder, found, data = trained(tiny(model, f"method={method}", "task=sst2", "task.max_train_samples=200", *pooling))
    from transformers import AutoModel, AutoTokenizer

    base, tokenizer = (auto.from_pretrained(checkpoints[model]).eval() for auto in (AutoModel, _Eval(AutoTokenizer)))
    groups = []
    for table in (data.splits["train"], data.splits["validation"]):
        with torch.no_grad():
            inputs = [tokenizer(text, return_tensors="pt") for text in table["sentence"][:]]
            if method == "mean_embedding":
                groups.append([base.get_input_embeddings()(each["input_ids"])[0].mean(dim=0) for each in inputs])
            else:
                states = [base(**each).last_hidden_state[0] for each in inputs]
                groups.append([each.mean(dim=0) if model == "bert" else each[-1] for each in states])
    features = [torch.stack(group).double().numpy() for group in groups]
    settings = RunResult(folder).config.method.config
    has_intercept = model == "bert"
    plain = make_pipeline(
        StandardScaler(with_mean=has_intercept),
        LogisticRegression(C=settings["C"], fit_intercept=has_intercept, max_iter=1000),
    ).fit(features[0], data.splits["train"]["label"][:])
    assert np.stack(found["probabilities"]) == pytest.approx(plain.predict_proba(features[1]), abs=1e-3)
    reloaded, _ = peftkit.load(folder)
    assert sum(weight.requires_grad for weight in reloaded.parameters()) >= 1
    costs = RunResult(folder).costs
    assert costs["steps"] == 0 and costs["trainable_params"] == 2 * (64 + has_intercept)


class _Eval:
    """A tokenizer's Auto class whose tokenizers have `eval`."""

    def __init__(self, auto: Any) -> None:
        self.auto = auto

    def from_pretrained(self, name: Path) -> Any:
        found = self.auto.from_pretrained(name)
        found.eval = lambda: found
        return found


@pytest.mark.slow
def test_several_labels_have_one_regression_each(tiny: Overrides, tmp_path: Path) -> None:
    file, random = tmp_path / "labels.jsonl", np.random.default_rng(0)
    words = ["film", "plot", "music", "actor", "end"]
    rows = []
    for _ in range(150):
        chosen = random.choice(words, 3)
        labels = [label for label, word in (("a", "film"), ("b", "plot"), ("c", "end")) if word in chosen]
        rows.append({"text": " ".join(chosen), "labels": labels})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ["task=multilabel", f"task.dataset={file}", "task.text=[text]", "task.label=labels"]
    _, found, data = trained(tiny("bert", "method=bag_of_words", *own, "task.max_train_samples=100"))
    train, vectorizer = data.splits["train"], TfidfVectorizer()
    indicators = np.array([[number in labels for number in range(3)] for labels in train["label"][:]], int)
    plain = OneVsRestClassifier(LogisticRegression(C=10, max_iter=1000))
    plain.fit(vectorizer.fit_transform(train["text"][:]), indicators)
    expected = plain.predict_proba(vectorizer.transform(data.splits["validation"]["text"][:]))
    assert np.stack(found["probabilities"]) == pytest.approx(expected, abs=1e-4)


def test_a_bag_needs_no_checkpoint_to_predict(tiny: Overrides, tmp_path: Path) -> None:
    folder, found, data = trained(tiny("bert", "method=bag_of_words", "task=sst2"))
    assert sorted(file.name for file in (folder / "model").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert RunResult(folder).record["gates"]["reload_difference"] < 1e-5
    first = peftkit.predict(folder, data.splits["validation"]["sentence"][:3])
    assert [each.prediction for each in first] == found["prediction_name"].tolist()[:3]
    assert peftkit.predict(folder, ["!!!"])[0].confidence is not None  # no word at all
    other = peftkit.evaluate(folder, source="offline")
    assert other.scores["accuracy"]["value"] == pytest.approx(RunResult(folder).scores["accuracy"])
    assert "import peftkit" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_words_are_those_of_scikit_learn() -> None:
    texts = ["It's a GOOD film, isn't it? 10/10 café_x", "Ünïted naïve-bayes: x y zz", "a I"]
    tokenizer, analyze = word_tokenizer(texts, None), TfidfVectorizer().build_analyzer()
    for text in texts:
        assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])[1:] == analyze(text)
    assert len(word_tokenizer(["b b b aa aa cc"] * 2, 1)) == 4


@pytest.mark.parametrize("method", ["bag_of_words", pytest.param("mean_embedding", marks=pytest.mark.slow)])
def test_a_plan_has_one_fit_and_no_steps(tiny: Overrides, method: str) -> None:
    (plan,) = commands.plan(*tiny("bert", "task=sst2", f"method={method}"))
    assert (plan.steps, plan.epochs) == (0, 1) and plan.parameters.trainable > 0


def test_a_search_tries_as_many_penalties_as_others_try_rates() -> None:
    def penalties(*overrides: str) -> list[float]:
        (run,) = choose(["task=sst2", "model=minilm", "source=offline", *overrides])
        return [each.config["C"] for each in candidates(run)]

    assert penalties("method=bag_of_words", "search.lr_multipliers=[0.3,1,3]") == [1, 10, 100]
    assert penalties("method=features", "search.learning_rates=[1e-4,1e-3]") == pytest.approx([0.00316, 0.0316])
    assert penalties("method=features", "search.config.C=[0.1,1]") == [0.1, 1]
    several = ["search.lr_multipliers=[0.3,1,3]", "search.config.r=[4,8]"]
    assert len(penalties("method=features", *several)) == 6
    (run,) = choose(["task=sst2", "method=features", "source=offline", "search.lr_multipliers=[0.3,1,3]"])
    assert extended_grids(run, candidates(run)[0]) == {}


@pytest.mark.slow
def test_a_search_chooses_the_penalty(tiny: Overrides) -> None:
    overrides = tiny("bert", "method=bag_of_words", "task=sst2", "search.lr_multipliers=[0.3,1,3]", "search.samples=40")
    folder, _, _ = trained([*overrides, "task.max_train_samples=100"])
    record = RunResult(folder).record
    assert [trial["config"]["C"] for trial in record["search"]["trials"]] == [1, 10, 100]
    assert record["run"]["config"]["method"]["config"]["C"] == record["search"]["chosen_config"]["C"]


def test_what_a_fitted_head_ignores_is_refused() -> None:
    for setting in ("early_stopping.patience=2", "task.class_weights=balanced", "train.label_smoothing_factor=0.1"):
        (message,) = check(["task=sst2", "model=minilm", "method=features", setting])
        assert message.endswith("method=features is fitted at once; drop it, or use method=linear_probe")
    (message,) = check(["task=squad", "model=minilm", "method=bag_of_words"])
    assert message.endswith("use method=lora")


@pytest.mark.slow
def test_a_head_of_several_layers_is_refused(tiny: Overrides) -> None:
    with pytest.raises(peftkit.UserError, match=r"set model\.pooling=mean, or set method=linear_probe"):
        commands.finetune(*tiny("roberta", "method=features", "task=sst2"))
