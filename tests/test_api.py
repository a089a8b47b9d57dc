"""The Python API: values in, values out, and nothing changed in the caller's process."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

import peftkit
from peftkit.data.miniglue import miniglue
from peftkit.results.run_folder import PREDICTION_COLUMNS
from peftkit.results.run_result import RunResult

VERBS = [
    "base_checkpoint", "combine", "compare", "diff", "embed", "evaluate", "export", "finetune", "leaderboard", "load",
    "merge", "ood", "plan", "predict", "prune", "push", "runs",
]  # fmt: skip
TEXT = "cost is ${x}, [a] {b} = 'c'"
FOLDER = "säße, [a] = {b} 'c' ${d}"  # commas, brackets, equals signs, quotes and non-ASCII letters


def tiny(checkpoint: Path, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": "bert", "task": "sst2", "model.checkpoint": checkpoint, "source": "offline", "out": out,
        "task.max_train_samples": 16, "task.max_eval_samples": 16,
        "train": {"num_train_epochs": 1, "per_device_train_batch_size": 8}, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """Return a run whose folder has every sign in its name."""
    out = tmp_path_factory.mktemp("api") / FOLDER
    return peftkit.finetune(**tiny(checkpoints["bert"], out, method="lora"))


def test_the_verbs_are_public() -> None:
    assert sorted(peftkit.__all__) == ["UserError", *VERBS]
    assert set(VERBS) <= set(dir(peftkit))
    assert all(callable(getattr(peftkit, verb)) for verb in VERBS)
    with pytest.raises(AttributeError, match="it has"):
        peftkit.nothing  # noqa: B018


def test_the_import_is_light() -> None:
    code = "import sys, peftkit; print([name for name in ('torch', 'transformers', 'peft', 'hydra') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_run_has_scores_costs_and_predictions(run: RunResult) -> None:
    assert set(run.scores) == {"accuracy"} and run.status == "finished"
    assert run.costs["steps"] == 2
    predictions = run.predictions()
    known = [name for name in PREDICTION_COLUMNS if name != "domain"]  # of a task with domains only
    assert list(predictions.columns) == [*known, "sentence"] and len(predictions) == 16
    names = np.array(["negative", "positive"])
    assert (names[predictions["label"]] == predictions["label_name"]).all()
    assert (names[predictions["prediction"]] == predictions["prediction_name"]).all()
    logits, probabilities = np.stack(predictions["scores"]), np.stack(predictions["probabilities"])
    np.testing.assert_allclose(probabilities, softmax(logits, axis=-1))
    texts = {row["idx"]: row["sentence"] for row in miniglue("sst2")["validation"]}
    assert [texts[number] for number in predictions["id"]] == list(predictions["sentence"])
    assert FOLDER in str(run.folder)
    overrides = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))["run"]["overrides"]
    assert "train.num_train_epochs=1" in overrides and "task=sst2" in overrides


def test_texts_are_predicted_as_they_are(run: RunResult) -> None:
    texts = [TEXT, "a fine film", "it's 'bad', isn't it?", "\\${x}", "größer || kleiner", ""]
    found = peftkit.predict(run, texts)
    assert len(found) == len(texts)
    assert all(each.prediction in ("negative", "positive") for each in found[:-1]) and found[-1].prediction is None
    assert peftkit.predict(str(run.folder), TEXT).prediction == found[0].prediction
    model, tokenizer = peftkit.load(run)
    logits = model(**tokenizer([TEXT], return_tensors="pt")).logits[0].tolist()
    np.testing.assert_allclose(found[0].scores, logits, atol=0.05)
    assert peftkit.predict(run, []) == []


def test_paths_and_labels_with_signs_are_values(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / FOLDER / "train, [x] = ö.csv"
    file.parent.mkdir()
    file.write_text("text,mood\n" + "".join(f"the film {n},{['sad', 'glad'][n % 2]}\n" for n in range(20)), "utf-8")
    data = {"task.dataset": file, "task.text": ["text"], "task.label": "mood"}
    found = peftkit.finetune(**{**tiny(checkpoints["bert"], tmp_path / "out"), "task": "classification", **data})
    assert found.record["run"]["config"]["task"]["dataset"] == str(file)
    assert found.record["audit"]["label_names"] == ["glad", "sad"]


def test_nothing_is_printed_and_no_setting_of_the_caller_changes(
    run: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets
    import transformers
    from huggingface_hub import constants

    def settings() -> list[Any]:
        return [
            transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled(),
            datasets.are_progress_bars_disabled(), datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE,
            list(warnings.filters), logging.getLogger().handlers[:], logging.getLogger("peftkit").level,
        ]  # fmt: skip

    transformers.logging.set_verbosity_info()
    datasets.enable_progress_bars()
    before = settings()
    peftkit.load(run)
    peftkit.predict(run, ["a film"])
    peftkit.evaluate(run, source="offline")
    assert settings() == before
    assert capsys.readouterr().out == ""
    transformers.logging.set_verbosity_warning()


def test_evaluate_merge_and_embed_return_what_they_made(run: RunResult) -> None:
    found = peftkit.evaluate(run, source="offline")
    assert found.scores["accuracy"]["value"] == pytest.approx(run.scores["accuracy"]) and found.file.is_file()
    merged = peftkit.merge(run)
    assert (merged / "model.safetensors").is_file() and merged == run.folder / "merged"
    vectors = peftkit.embed(["a film", TEXT], run=run, source="offline")
    assert vectors.shape[0] == 2 and np.isfinite(vectors).all()


def test_runs_are_combined_pruned_and_tested_on_other_texts(run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    out = run.folder.parents[4]
    (half,) = peftkit.combine([run], [0.5], source="offline", out=out)
    assert half.record["combination"]["runs"][0]["weight"] == 0.5 and set(half.scores) == {"accuracy"}
    pruned = peftkit.prune(run, heads=0.5)
    assert pruned.costs["total_params"] < run.costs["total_params"] and pruned.folder.parent == run.folder.parent
    found = peftkit.ood(run, source="offline", **{"ood.shuffle": True})
    assert set(found.detectors) == {"max_softmax", "energy", "mahalanobis"} and found.file.is_file()
    assert json.loads(found.file.read_text())["detectors"]["energy"]["auroc"] == found.detectors["energy"].auroc
    assert capsys.readouterr().out == ""
    with pytest.raises(peftkit.UserError, match="job=ood needs texts of another kind"):
        peftkit.ood(run, source="offline")


def test_a_plan_is_a_value(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    found = peftkit.plan(**tiny(checkpoints["bert"], tmp_path, method="lora"))
    assert (found.steps, found.examples, found.batch_size) == (2, 16, 8)
    assert 0 < found.parameters.trainable < found.parameters.total and found.memory.total > 0


def test_methods_are_compared_on_a_board(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    settings = tiny(checkpoints["bert"], tmp_path)
    del settings["task"]
    board = peftkit.compare(methods=["lora", "linear_probe"], tasks=["sst2"], seeds=2, **settings)
    table = board.to_pandas()
    methods = table[~table["is_baseline"]]
    assert sorted(methods["method"]) == ["linear_probe", "lora"] and list(methods["seeds"]) == [2, 2]
    assert list(table["method"])[2:] == ["majority class", "chance"]
    assert (methods["low"] < methods["score"]).all() and (methods["score"] < methods["high"]).all()
    assert len(board.verdict().groups) == 4
    assert board.plot().axes
    assert len(peftkit.leaderboard(tmp_path).to_pandas()) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "lorra"}, "did you mean method=lora"),
        ({"train": {"learning_rat": 1}}, "learning_rate"),
        ({"task.max_lenght": 3}, "task.max_length"),
        ({"seed": "abc"}, "seed"),
        ({"search": {"lr_multipliers": [0]}}, "search.lr_multipliers"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_loads(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(peftkit.UserError, match=message):
        peftkit.finetune(**{"task": "mrpc", "source": "offline", **settings})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: peftkit.finetune(task=3), "task=3: expected a name"),  # type: ignore[arg-type]
        (lambda: peftkit.plan(model=["bert"]), "model=.*: expected a name"),  # type: ignore[arg-type]
        (lambda: peftkit.finetune(job="plan"), "job='plan': this function sets job"),
        (lambda: peftkit.predict("nope", "a", input="b"), "input='b': this function sets input"),
        (lambda: peftkit.evaluate(None), "run=None: expected a run folder"),  # type: ignore[arg-type]
        (lambda: peftkit.predict(["a", "b"], "x"), "run=.*: expected a run folder"),  # type: ignore[arg-type]
        (lambda: peftkit.predict("nope", 5), "texts=5: expected a list"),  # type: ignore[call-overload]
        (lambda: peftkit.predict("nope", {"text": "a"}), "texts=.*: expected a list"),  # type: ignore[call-overload]
        (lambda: peftkit.embed("a fine film"), "texts='a fine film': expected a list"),
        (lambda: peftkit.embed([5]), "texts=.*: expected a list, each a text"),  # type: ignore[list-item]
        (lambda: peftkit.merge("nope", output=3), "output=3: expected a path"),  # type: ignore[arg-type]
        (lambda: peftkit.combine("nope"), "runs='nope': expected a list"),
        (lambda: peftkit.combine(["a", "b"], [1]), "weights= has 1 number for 2 runs"),
        (lambda: peftkit.ood("nope"), "job=ood needs texts of another kind; set task=cola, or set ood.shuffle=true"),
        (lambda: peftkit.ood("nope", task="cola", ood={"shuffle": True}), "which task would replace; drop task"),
        (lambda: peftkit.prune("nope", heads=0.3, prune={"heads": 0.5}), "prune.heads=0.5: this function sets prune.he"),
        (lambda: peftkit.push("nope", "ada/x", push={"private": False}), "push.private=False: this function sets push"),
        (lambda: peftkit.prune("nope", heads=2), "prune.heads=2"),
        (lambda: peftkit.load(3), "run=3: expected a run folder"),  # type: ignore[arg-type]
        (lambda: peftkit.load("nope", allow_code="mine"), "allow_code='mine': expected a list"),
        (lambda: peftkit.leaderboard(results="x"), "results='x': expected a list"),
        (lambda: peftkit.leaderboard(None), "out=None: expected a path"),  # type: ignore[arg-type]
        (lambda: peftkit.compare(methods=[], tasks=["sst2"]), "methods: expected at least one name"),
        (lambda: peftkit.compare(methods=["lora"], tasks="sst2"), "tasks='sst2': expected a list"),
        (lambda: peftkit.compare(methods=["lora"], tasks=["sst2"], seeds=0), "seeds: expected at least one seed"),
        (lambda: peftkit.compare(methods=["lora"], tasks=["sst2"], seeds=1.5), "seeds=1.5: expected a list"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_a_wrong_type_is_refused_by_its_argument(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(peftkit.UserError, match=message):
        call()


def test_a_pipe_among_the_files_of_a_run_is_refused(run: RunResult, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "run")
    (weights := folder / "adapter" / "adapter_model.safetensors").unlink()
    os.mkfifo(weights)
    with pytest.raises(peftkit.UserError, match=r"adapter_model\.safetensors cannot be read: not a regular file"):
        peftkit.load(folder)
