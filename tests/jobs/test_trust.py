"""Temperatures, thresholds and folds of whole runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers import commands
from scipy.special import expit, logit, softmax
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, log_loss

import peftkit
from peftkit.config import UserError
from peftkit.data.miniglue import miniglue
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.stats import board_entries
from peftkit.metrics.calibration import calibration_quality, fit_temperature

Overrides = Callable[..., list[str]]


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def scores_of(file: Path) -> tuple[np.ndarray, np.ndarray]:
    table = pq.read_table(file)
    return np.array(table["scores"].to_pylist()), np.array(table["label"].to_pylist())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "method"), [("bert", "lora"), ("gpt2", "lora"), ("t5", "lora"), ("gpt2", "zero_shot")]
)
def test_a_temperature_is_fitted_on_held_out_examples_alone(tiny: Overrides, model: str, method: str) -> None:
    overrides = tiny(model, "task=sst2", f"method={method}", "task.max_train_samples=60", "calibration.holdout=0.25")
    (folder,) = commands.finetune(*overrides)
    record = record_of(folder)
    assert record["audit"]["rows"] == {"train": 45, "calibration_holdout": 15, "validation": 24}
    found, (held, labels) = record["calibration"], scores_of(folder / "calibration.parquet")
    assert found["temperature"] == pytest.approx(fit_temperature(held, labels)) and found["examples"] == 15
    for entry, (scores, known) in {
        "held out": (found, (held, labels)),
        "validation": (found["validation"]["validation"], scores_of(folder / "predictions.parquet")),
    }.values():
        for stage, temperature in {"before": 1.0, "after": found["temperature"]}.items():
            quality = calibration_quality(scores, known, temperature)
            assert (entry["nll"][stage], entry["ece"][stage]) == (
                pytest.approx(quality.nll),
                pytest.approx(quality.ece),
            )
    table = pq.read_table(folder / "predictions.parquet")
    scaled = softmax(np.array(table["scores"].to_pylist()) / found["temperature"], axis=-1)
    np.testing.assert_allclose(table["probabilities"].to_pylist(), scaled)
    assert (folder / "report.html").is_file()


@pytest.fixture(scope="module")
def runs(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of a tiny classifier, trained once a module."""
    out, done = tmp_path_factory.mktemp("runs"), {}

    def find(task: str = "sst2", *more: str) -> Path:
        if (task, more) not in done:
            (done[task, more],) = commands.finetune(
                "model=bert", f"model.checkpoint={checkpoints['bert']}", "source=offline", f"out={out}", f"task={task}",
                "method=lora", "task.max_train_samples=160", "task.max_eval_samples=24", "train.learning_rate=5e-3",
                "train.per_device_train_batch_size=8", "train.disable_tqdm=true", "train.num_train_epochs=3", *more,
            )  # fmt: skip
        return done[task, more]

    return find


CALIBRATED = ("calibration.holdout=0.3",)


def tickets(file: Path) -> pd.DataFrame:
    """Write labeled sentences, of which one has no text and one a label that the run does not know."""
    rows = pd.DataFrame([{"sentence": r["sentence"], "label": r["label"]} for r in miniglue("sst2")["validation"]][:40])
    rows["label"] = rows["label"].map({0: "negative", 1: "positive"})
    rows.loc[3, "sentence"], rows.loc[5, "label"] = "", "mixed"
    rows.to_csv(file, index=False)
    return rows


@pytest.mark.slow
def test_a_prediction_has_the_calibrated_probability_of_each_label(runs: Callable[..., Path], tmp_path: Path) -> None:
    rows, folder = tickets(tmp_path / "new.csv"), runs("sst2", *CALIBRATED)
    frames = {}
    for ending in ("csv", "parquet"):
        commands.predict(folder, tmp_path / "new.csv", f"output={tmp_path}/out.{ending}")
        read = pd.read_csv if ending == "csv" else pd.read_parquet
        frames[ending] = read(tmp_path / f"out.{ending}")
    found = frames["csv"]
    assert list(found) == [*rows, "prediction", "scores", "confidence", "probability_negative", "probability_positive"]
    assert list(frames["parquet"]) == list(found) and found["confidence"].isna().sum() == 1
    found = found.dropna(subset=["confidence"])
    scores = np.array([json.loads(text) for text in found["scores"]])
    expected = softmax(scores / record_of(folder)["calibration"]["temperature"], axis=1)
    columns = found[["probability_negative", "probability_positive"]].to_numpy()
    np.testing.assert_allclose(columns, expected, rtol=1e-12)
    np.testing.assert_allclose(found["confidence"], expected.max(1), rtol=1e-12)
    assert (np.array(["negative", "positive"])[expected.argmax(1)] == found["prediction"]).all()
    text = str(rows["sentence"][0])
    prediction = peftkit.predict(folder, text)
    assert prediction.confidence == pytest.approx(found["confidence"].iloc[0], abs=1e-5)
    unsure = peftkit.predict(folder, [text], **{"predict.abstain": 1.0})[0]
    assert unsure.prediction is None and unsure.confidence == pytest.approx(prediction.confidence)


@pytest.mark.slow
def test_unsure_answers_are_left_to_a_person_and_counted(
    runs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, folder = tickets(tmp_path / "new.csv"), runs("sst2", *CALIBRATED)
    commands.predict(folder, tmp_path / "new.csv", f"output={tmp_path}/all.csv")
    every = pd.read_csv(tmp_path / "all.csv")
    threshold = float(every["confidence"].median())
    capsys.readouterr()
    commands.predict(folder, tmp_path / "new.csv", f"output={tmp_path}/sure.csv", f"predict.abstain={threshold}")
    printed, sure = capsys.readouterr(), pd.read_csv(tmp_path / "sure.csv")
    pd.testing.assert_series_equal(sure["suggestion"], every["prediction"], check_names=False)
    answered = every["confidence"] >= threshold
    pd.testing.assert_series_equal(sure["prediction"], every["prediction"].where(answered))
    known = answered & rows["label"].isin(["negative", "positive"])
    right = int((every["prediction"] == rows["label"])[known].sum())
    text = printed.out + printed.err
    assert f"{answered.sum()} of 39 answered (coverage {answered.sum() / 39:.1%})" in text
    assert f"accuracy of answered {right / known.sum():.3f} ({right} of {known.sum()} with a label)" in text
    assert "1 labels of column label are unknown" in text


@pytest.mark.slow
def test_a_target_accuracy_gives_the_threshold_of_the_largest_coverage(
    runs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tickets(tmp_path / "new.csv")
    folder = runs("sst2", *CALIBRATED)
    scores, labels = scores_of(folder / "calibration.parquet")
    confidences = softmax(scores / record_of(folder)["calibration"]["temperature"], axis=1).max(1)
    is_right = scores.argmax(1) == labels
    accuracies = {c: is_right[confidences >= c].mean() for c in confidences}
    target = max(accuracies.values())
    threshold = min(c for c, accuracy in accuracies.items() if accuracy >= target)
    capsys.readouterr()
    commands.predict(folder, tmp_path / "new.csv", f"predict.target_accuracy={target}", f"output={tmp_path}/out.csv")
    found, printed = pd.read_csv(tmp_path / "out.csv"), capsys.readouterr()
    answered = found["confidence"] >= threshold
    assert (found["prediction"].notna() == answered).all()
    assert f"of {len(labels)} held-out training examples it answers {(confidences >= threshold).sum()}" in (
        printed.out + printed.err
    )


@pytest.mark.slow
def test_thresholds_without_confidence_are_refused_with_their_fix(runs: Callable[..., Path], tmp_path: Path) -> None:
    tickets(tmp_path / "new.csv")
    plain, numbers, calibrated = runs(), runs("stsb"), runs("sst2", *CALIBRATED)
    base = ["job=predict", f"input={tmp_path}/new.csv"]
    for more, message in (
        ([f"run={plain}", "predict.target_accuracy=0.9"], "train it again with calibration.holdout=0.1"),
        (
            [f"run={calibrated}", "predict.target_accuracy=0.9", "predict.abstain=0.8"],
            "predict.target_accuracy chooses",
        ),
        ([f"run={calibrated}", "predict.abstain=80"], "expected a probability from 0 to 1; use predict.abstain=0.8"),
        ([f"runs=[{plain},{numbers}]", "predict.target_accuracy=0.9"], "chooses a threshold for one run"),
    ):
        (error,) = commands.check([*base, *more])
        assert message in error and error.fix
        assert all(not commands.check(commands.apply_fix([*base, *more], fix)) for fix in error.fix)
    (error,) = [e for e in commands.check([*base, f"run={numbers}", "predict.abstain=0.8"]) if "predict" in e]
    assert "is a run of regression" in error
    with pytest.raises(UserError, match="no threshold reaches it on the 48 held-out examples"):
        commands.predict(inverted(calibrated, tmp_path / "seed-0"), tmp_path / "new.csv", "predict.target_accuracy=1")


def inverted(folder: Path, copy: Path) -> Path:
    """Return a copy of a run whose held-out examples have all labels wrong."""
    shutil.copytree(folder, copy)
    table = pq.read_table(copy / "calibration.parquet").to_pandas()
    table["label"] = 1 - table["prediction"]
    table.to_parquet(copy / "calibration.parquet")
    return copy


@pytest.mark.slow
def test_runs_of_several_tasks_have_the_confidence_of_each(runs: Callable[..., Path], tmp_path: Path) -> None:
    folders = [runs("sst2", *CALIBRATED), runs("cola"), runs("stsb")]
    texts = {"sentence": "a fine film .", "sentence1": "a film .", "sentence2": "a bad film ."}
    rows = [{"task": task, **texts} for task in ("cola", "sst2", "stsb")]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    commands.predict(folders, tmp_path / "mixed.jsonl", f"output={tmp_path}/out.jsonl", "predict.abstain=0.999")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    alone = [peftkit.predict(run, ["a fine film ."])[0] for run in (folders[1], folders[0])]
    assert [row["confidence"] for row in found] == [
        *(pytest.approx(each.confidence, abs=1e-5) for each in alone),
        None,
    ]
    assert [row["prediction"] for row in found[:2]] == [None, None] and found[2]["prediction"] is not None
    assert [row["suggestion"] for row in found[:2]] == [each.prediction for each in alone]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sst2", "stsb"])
def test_every_training_example_is_scored_once_by_a_model_without_it(
    tiny: Overrides, task: str, tmp_path: Path
) -> None:
    overrides = [each for each in tiny("bert", f"task={task}", "task.folds=3") if "max_eval_samples" not in each]
    (folder,) = commands.finetune(*overrides, "task.max_train_samples=31")
    folds = sorted(folder.parent.glob("fold-*"))
    assert len(folds) == 3 and not list(folder.parent.rglob("adapter"))
    records, record = [record_of(each) for each in folds], record_of(folder)
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    assert table["id"].is_unique and len(table) == 31
    assert record["audit"]["rows"] == {"train": 20, "out_of_fold": 31}
    assert sorted(each["audit"]["rows"]["out_of_fold"] for each in records) == [10, 10, 11]
    if task == "sst2":
        parts = [pq.read_table(each / "predictions.parquet")["label"].to_pylist() for each in folds]
        assert np.ptp([sum(part) for part in parts]) <= 1  # stratified
        assert record["scores"]["accuracy"]["value"] == accuracy_score(table["label"], table["prediction"])
    else:
        assert record["scores"]["pearson"]["value"] == pytest.approx(pearsonr(table["label"], table["prediction"])[0])
    for name, spread in record["cross_validation"]["spread"].items():
        values = [each["scores"][name]["value"] for each in records]
        assert spread == pytest.approx(np.std(values, ddof=1))
        assert [each["scores"][name] for each in record["cross_validation"]["folds"]] == values
    assert record["costs"]["steps"] == sum(each["costs"]["steps"] for each in records)
    (entry,) = board_entries(collect([tmp_path]))
    assert [run.folder for run in entry.runs] == [folder] and entry.runs[0].problem is None
    (error,) = commands.check(["job=predict", f"run={folder}", "input='a film'"])
    assert "keeps no model; train one on all examples" in error
    if task == "stsb":
        return
    before = {each: (each / "result.json").stat().st_mtime_ns for each in folds}
    shutil.rmtree(folds[1])
    shutil.rmtree(folder)  # interrupted after the first fold and the third: only the second is trained again
    (again,) = commands.finetune(*overrides, "task.max_train_samples=31")
    assert again == folder and record_of(folder)["scores"] == record["scores"]
    after = {each: (each / "result.json").stat().st_mtime_ns for each in folds}
    assert [after[each] == before[each] for each in folds] == [True, False, True]


@pytest.mark.slow
def test_a_search_is_nested_in_each_fold(tiny: Overrides) -> None:
    overrides = [each for each in tiny("bert", "task=sst2", "task.folds=2") if "max_eval_samples" not in each]
    more = ("task.max_train_samples=null", "search.lr_multipliers=[1,3]", "search.samples=20", "train.max_steps=2")
    (folder,) = commands.finetune(*[each for each in overrides if "max_train" not in each], *more)
    trials = [record_of(file.parent) for file in folder.parent.glob("fold-*-trial-*/result.json")]
    assert len(trials) == 4
    for fold in (0, 1):
        (name,) = folder.parent.glob(f"fold-{fold}-seed-*")
        scored = set(pq.read_table(name / "predictions.parquet")["id"].to_pylist())
        for file in folder.parent.glob(f"fold-{fold}-trial-*/predictions.parquet"):
            assert not scored & set(pq.read_table(file)["id"].to_pylist())  # trials never see the fold
    assert len(record_of(folder)["search"]["trials"]) == 2


NAMES = ["bug", "late", "praise"]


def label_sets(file: Path, count: int) -> list[list[int]]:
    """Write texts with any number of labels, each of which has a word of its own."""
    random = np.random.default_rng(count)
    flags = (random.random((count, 3)) < [0.5, 0.3, 0.2]).astype(int).tolist()
    rows = [
        {
            "text": " ".join(
                [
                    f"a film {count} {number}",
                    *(word for word, flag in zip(("bad", "good", "fine"), row, strict=True) if flag),
                ]
            ),
            "labels": "|".join(name for name, flag in zip(NAMES, row, strict=True) if flag),
        }
        for number, row in enumerate(flags)
    ]
    pd.DataFrame(rows).to_csv(file, index=False)
    return flags


@pytest.fixture(scope="module")
def label_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tickets")
    label_sets(folder / "train.csv", 160), label_sets(folder / "validation.csv", 40)
    return folder


def several(data: Path) -> tuple[str, ...]:
    return ("task.name=tickets", f"task.dataset={data}", "task.text=[text]", "task.label=labels",
            "task.label_separator='|'", "task.metrics=[micro_f1,macro_f1,average_precision]")  # fmt: skip


@pytest.mark.slow
def test_thresholds_of_labels_are_fitted_on_held_out_examples_and_used(
    runs: Callable[..., Path], label_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runs("multilabel", *several(label_data), "calibration.holdout=0.25", "calibration.thresholds=true")
    record = record_of(folder)
    found, names = record["calibration"], record["audit"]["label_names"]
    temperature, limits = found["temperature"], np.array([found["thresholds"][name] for name in names])
    tables = {name: pq.read_table(folder / f"{name}.parquet").to_pandas() for name in ("calibration", "predictions")}
    assert len(tables["calibration"]) == found["examples"] == 40
    known: dict[str, np.ndarray] = {}
    for name, table in tables.items():
        given = expit(np.stack(table["scores"]) / temperature)
        np.testing.assert_allclose(np.stack(table["probabilities"]), given)
        known[name], predicted = (
            np.array([[n in row for n in range(3)] for row in table[column]]) for column in ("label", "prediction")
        )
        assert (predicted == (given >= limits)).all()
        part = found if name == "calibration" else found["validation"]["validation"]
        assert part["nll"]["after"] == pytest.approx(log_loss(known[name].ravel(), given.ravel(), labels=[0, 1]))
        for column in range(3) if name == "calibration" else ():
            best = max(f1_score(known[name][:, column], given[:, column] >= t) for t in given[:, column])
            assert f1_score(known[name][:, column], predicted[:, column]) == pytest.approx(best)
    scores, labels = np.stack(tables["predictions"]["scores"]), known["predictions"]
    after = scores >= temperature * logit(limits)
    for average in ("micro", "macro"):
        expected = [f1_score(labels, each, average=average, zero_division=0) for each in (scores >= 0, after)]
        assert [found["scores"][f"{average}_f1"][when] for when in ("before", "after")] == pytest.approx(expected)
        assert record["scores"][f"{average}_f1"]["value"] == pytest.approx(expected[1])
    capsys.readouterr()
    commands.evaluate(folder)
    assert "from its threshold: micro_f1" in "".join(capsys.readouterr())
    (file,) = folder.glob("evaluation-*.json")
    evaluation = json.loads(file.read_text())
    assert evaluation["calibration"]["scores"] == {
        name: {when: pytest.approx(value) for when, value in each.items()} for name, each in found["scores"].items()
    }


@pytest.mark.slow
def test_the_confidence_of_several_labels_is_that_of_the_least_sure_one(
    runs: Callable[..., Path], label_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runs("multilabel", *several(label_data), "calibration.holdout=0.25", "calibration.thresholds=true")
    limits = record_of(folder)["calibration"]["thresholds"]
    commands.predict(folder, label_data / "validation.csv", f"output={tmp_path}/all.csv")
    every = pd.read_csv(tmp_path / "all.csv", keep_default_na=False)
    given = every[[f"probability_{name}" for name in limits]].to_numpy()
    present = given >= [*limits.values()]
    np.testing.assert_allclose(every["confidence"], np.where(present, given, 1 - given).min(1))
    assert every["prediction"].tolist() == ["|".join(np.array([*limits])[row]) for row in present]
    threshold = float(every["confidence"].median())
    capsys.readouterr()
    commands.predict(
        folder, label_data / "validation.csv", f"output={tmp_path}/sure.csv", f"predict.abstain={threshold}"
    )
    sure = pd.read_csv(tmp_path / "sure.csv", keep_default_na=False)
    answered = every["confidence"] >= threshold
    assert sure["prediction"].tolist() == every["prediction"].where(answered, "").tolist()
    assert sure["suggestion"].tolist() == every["prediction"].tolist()
    right = [{*a.split("|")} == {*b.split("|")} for a, b in zip(every["prediction"], every["labels"], strict=True)]
    assert f"({sum(right)} of 40 with a label)" in "".join(capsys.readouterr())


@pytest.mark.slow
def test_folds_of_several_labels_are_pooled(runs: Callable[..., Path], label_data: Path) -> None:
    folder = runs("multilabel", *several(label_data), "task.folds=3", "task.max_eval_samples=null")
    table, record = pq.read_table(folder / "predictions.parquet").to_pandas(), record_of(folder)
    labels, predicted = (
        np.array([[n in row for n in range(3)] for row in table[name]]) for name in ("label", "prediction")
    )
    assert len(table) == 160 and table["id"].is_unique
    expected = f1_score(labels, predicted, average="micro", zero_division=0)
    assert record["scores"]["micro_f1"]["value"] == pytest.approx(expected)
