"""job=diff: which examples flipped between two runs, with paired tests; other tasks, data or examples are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import commands
from helpers.commands import check, choose
from helpers.recorded_runs import write_run
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

import peftkit
from peftkit.config import UserError
from peftkit.jobs.diff import compare_predictions, diff
from peftkit.results.run_folder import SCHEMA

NAMES = ["negative", "neutral", "positive"]


def record_run(
    root: Path, name: str, labels: list, predictions: list, scores: dict[str, float],
    names: list[str] | None = None, ids: list | None = None, texts: list[str] | None = None,
    kind: str = "classification", **more: Any,
) -> Path:  # fmt: skip
    """Write the folder of a finished run with these predictions."""
    write_run(root, name, metrics=dict.fromkeys(scores, True), **more)
    folder = root / name
    record = json.loads((folder / "result.json").read_text())
    record["schema"] = SCHEMA
    record["run"]["config"]["task"]["kind"] = kind
    record["audit"]["label_names"] = names
    for metric, value in scores.items():
        record["scores"][metric]["value"] = value
    (folder / "result.json").write_text(json.dumps(record))
    columns = {
        "id": ids or list(range(len(labels))), "split": ["validation"] * len(labels), "label": labels,
        "prediction": predictions, **({"sentence": texts} if texts else {}),
    }  # fmt: skip
    pq.write_table(pa.table(columns), folder / "predictions.parquet")
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return two classifiers of 300 examples; the second run has them in another order."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    answers = [np.where(random.random(300) < share, labels, random.integers(0, 3, 300)) for share in (0.8, 0.6)]
    folders = []
    for name, predicted, order in zip("ab", answers, (np.arange(300), random.permutation(300)), strict=True):
        scores = {
            "accuracy": accuracy_score(labels, predicted),
            "macro_f1": f1_score(labels, predicted, average="macro"),
        }
        texts = [f"text {n}" for n in order]
        ids = order.tolist()
        found = labels[order].tolist(), predicted[order].tolist()
        folders.append(record_run(tmp_path, name, *found, scores, NAMES, ids, texts))
    return folders[0], folders[1]


def test_flips_and_their_p_values_equal_a_second_computation(pair: tuple[Path, Path]) -> None:
    found = peftkit.diff(*pair)
    table = found.to_pandas()
    right = table["prediction_a"] == table["label"], table["prediction_b"] == table["label"]
    assert table["id"].tolist() == list(range(300)) and table["sentence"].tolist() == [f"text {n}" for n in range(300)]
    p_of_classes = {}
    for name, members in {"all": table["label"] != "", **{name: table["label"] == name for name in NAMES}}.items():
        one, other = right[0][members], right[1][members]
        flips = next(each for each in found.flips if each.name == name)
        counts = (one & other).sum(), (one & ~other).sum(), (~one & other).sum(), (~one & ~other).sum()
        assert (flips.both, flips.only_first, flips.only_second, flips.neither) == counts
        p = binomtest(int(counts[1]), int(counts[1] + counts[2])).pvalue
        if name == "all":
            assert flips.p == pytest.approx(p)
            assert (table["outcome"] == "only A right").sum() == counts[1]
        else:
            p_of_classes[name] = p
    ordered = sorted(p_of_classes, key=lambda name: p_of_classes[name])  # Holm's step-down, by hand
    lowest = 0.0
    for rank, name in enumerate(ordered):
        lowest = min(max(lowest, (3 - rank) * p_of_classes[name]), 1.0)
        assert next(each for each in found.flips if each.name == name).p == pytest.approx(lowest)


@pytest.mark.slow
def test_the_difference_of_the_scores_equals_a_bootstrap_of_scikit_learn(pair: tuple[Path, Path]) -> None:
    found = peftkit.diff(*pair)
    table = found.to_pandas()
    label, one, other = (table[name].to_numpy() for name in ("label", "prediction_a", "prediction_b"))

    def score(of: np.ndarray, chosen: np.ndarray) -> float:
        macro = f1_score(label[chosen], of[chosen], average="macro")
        return float((accuracy_score(label[chosen], of[chosen]) + macro) / 2)

    random = np.random.default_rng(1)
    samples = [random.integers(0, 300, 300) for _ in range(400)]
    spread = np.std([score(one, chosen) - score(other, chosen) for chosen in samples])
    whole = score(one, np.arange(300)) - score(other, np.arange(300))
    assert found.difference is not None and found.difference.metrics == ["accuracy", "macro_f1"]
    assert found.difference.difference == pytest.approx(whole)
    low, high = found.difference.interval
    assert (high - low) / 2 == pytest.approx(1.97 * spread, rel=0.12)  # two bootstraps of this size differ so much


def test_the_command_prints_the_classes_and_writes_every_example(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config,) = choose(["task=sst2"])
    diff(replace(config, job="diff", runs=[*map(str, pair)], output=str(tmp_path / "flips.csv")))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    assert any(line.startswith("positive ") for line in lines) and any(line.startswith("all ") for line in lines)
    written = (tmp_path / "flips.csv").read_text().splitlines()
    assert written[0] == "id,split,sentence,label,prediction_a,prediction_b,outcome" and len(written) == 301


def test_numbers_and_texts_are_compared_too(tmp_path: Path) -> None:
    labels = [float(n) for n in range(40)]
    noisy = [label + (-1) ** n for n, label in enumerate(labels)]
    scores = [float(np.corrcoef(labels, each)[0, 1]) for each in (noisy, labels)]
    a, b = (
        record_run(tmp_path, name, labels, each, {"pearson": value}, kind="regression")
        for name, each, value in zip("ab", (noisy, labels), scores, strict=True)
    )
    found = compare_predictions(a, b)
    assert not found.flips and found.difference is not None and found.difference.test == "bootstrap"
    assert found.difference.difference == pytest.approx(scores[0] - scores[1])
    for folder, each in ((a, noisy), (b, labels)):
        record = json.loads((folder / "result.json").read_text())
        error = float(np.mean(np.square(np.subtract(each, labels))))
        record["scores"] = {"mean_squared_error": {"value": error, "higher_is_better": False}}
        (folder / "result.json").write_text(json.dumps(record))
    errors = compare_predictions(a, b).difference
    assert errors is not None and errors.difference == pytest.approx(1.0) and errors.interval[0] > 0  # A is worse
    references = [["one", "1"], ["two"], ["three"]]
    c, d = (
        record_run(tmp_path, name, references, each, {"exact_match": 2 / 3}, kind="seq2seq")
        for name, each in (("c", ["1", " two", "four"]), ("d", ["uno", "two", "three "]))
    )
    (whole,) = compare_predictions(c, d).flips
    assert (whole.both, whole.only_first, whole.only_second, whole.neither, whole.p) == (1, 1, 1, 0, 1.0)


def test_a_hidden_label_is_in_no_count(tmp_path: Path) -> None:
    a, b = (
        record_run(tmp_path, name, [None, 0, 1, 1], [0, 0, 1, last], {"accuracy": score}, ["no", "yes"])
        for name, last, score in (("a", 1, 1.0), ("b", 0, 2 / 3))
    )
    found = compare_predictions(a, b)
    assert [(each.name, each.both, each.only_first) for each in found.flips] == [
        ("all", 2, 1),
        ("no", 1, 0),
        ("yes", 1, 1),
    ]
    assert found.columns["outcome"] == [None, "both right", "both right", "only A right"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "mrpc"}, "is a run of rte, .* of mrpc; name two runs of one task"),
        ({"ids": [0, 1, 2, 9]}, r"other validation examples \(4 and 4, 3 of them the same\)"),
        ({"labels": [0, 1, 1, 1]}, "the label of example 2 differs"),
        ({"names": ["no", "maybe"]}, "has the labels"),
        ({"texts": ["a", "b", "c", "e"]}, "the sentence of example 3 differs"),
        ({"revision": "2"}, None),  # of the model
        ({"status": "failed", "reason": "out of memory"}, "finish that run first"),
    ],
)
def test_runs_that_do_not_compare_are_refused(tmp_path: Path, change: dict[str, Any], message: str | None) -> None:
    usual: dict[str, Any] = {
        "labels": [0, 1, 0, 1], "predictions": [0, 1, 1, 1], "names": ["no", "yes"], "texts": [*"abcd"],
        "scores": {"accuracy": 0.75},
    }  # fmt: skip
    a = record_run(tmp_path, "a", **usual)
    if "status" in change:
        write_run(tmp_path, "b", **change)
        record = json.loads((tmp_path / "b" / "result.json").read_text())
        (tmp_path / "b" / "result.json").write_text(json.dumps({"schema": SCHEMA, **record}))
    else:
        record_run(tmp_path, "b", **{**usual, **change})
    if message is None:
        assert compare_predictions(a, tmp_path / "b").flips[0].examples == 4
        return
    with pytest.raises(UserError, match=message):
        compare_predictions(a, tmp_path / "b")


@pytest.mark.slow
def test_ids_of_another_column_are_those_of_predictions_reports_and_differences(
    tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    for split, start in (("train", 0), ("validation", 100)):
        rows = (f"T-{n + start:03},text {n + start},{'ab'[n % 2]}" for n in range(24))
        (tmp_path / f"{split}.csv").write_text("\n".join(["ticket_number,text,label", *rows]))
    own = (
        "method=lora",
        "task=classification",
        f"task.dataset={tmp_path}",
        "task.text=[text]",
        "task.id=ticket_number",
    )
    a, b = (commands.finetune(*tiny("bert", *own, f"seed={seed}"))[0] for seed in (0, 1))
    names = [f"T-{n}" for n in range(100, 124)]
    assert pq.read_table(a / "predictions.parquet")["id"].to_pylist() == names
    assert compare_predictions(a, b).columns["id"] == names
    assert "T-1" in (a / "report.html").read_text(encoding="utf-8")
    (tmp_path / "new.csv").write_text("text\nx\n")  # without ids
    commands.predict(a, tmp_path / "new.csv", f"output={tmp_path}/out.csv")
    commands.predict(a, tmp_path / "validation.csv", f"output={tmp_path}/out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith("T-100,text 100,a,")
    commands.evaluate(a)


def test_one_folder_is_refused() -> None:
    for overrides in ([], ["runs=[x]"], ["runs=[x,x]"]):
        assert any(
            "job=diff compares two run folders; set runs=[DIR,DIR]" in m for m in check(["job=diff", *overrides])
        )
