"""Reports of other kinds than classification: their numbers equal those of scikit-learn, seqeval and hand counts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.report_runs import write_finished_run

from peftkit.config import UserError
from peftkit.pipeline.report import SECTIONS, make_report
from peftkit.pipeline.report.multilabel import label_scores
from peftkit.pipeline.report.tagging import tag_scores

TAGS = ["O", "B-PER", "I-PER", "B-LOC"]


def section(report: object, title: str) -> str:
    (found,) = [each for each in report.sections if each.title == title]  # type: ignore[attr-defined]
    return "".join(found.content)


def test_errors_of_regression_equal_those_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn import metrics

    random = np.random.default_rng(0)
    labels = random.normal(2, 1, 60)
    predictions = labels + random.normal(0.3, 0.5, 60)
    columns = {
        "label": labels.tolist(),
        "prediction": predictions.tolist(),
        "sentence1": [f"a <b> {n}" for n in range(60)],
    }
    report = make_report(write_finished_run(tmp_path / "run", columns, "task=stsb", scores={"pearson": 0.9}))
    absolute, r2 = metrics.mean_absolute_error(labels, predictions), metrics.r2_score(labels, predictions)
    mean = (predictions - labels).mean()
    assert report.lines == [f"mean absolute error {absolute:.4g}, mean error {mean:+.4g}, R² {r2:.3f}"]
    assert f"{metrics.root_mean_squared_error(labels, predictions):.4g}" in section(report, "Predictions")
    worst = int(np.abs(predictions - labels).argmax())
    assert section(report, "Largest errors").index(f"a &lt;b&gt; {worst}<") < 900
    assert report.findings == []


def test_predictions_that_do_not_vary_are_named(tmp_path: Path) -> None:
    columns = {"label": [0.0, 1.0, 2.0, 5.0], "prediction": [2.5, 2.6, 2.6, 2.5]}
    report = make_report(write_finished_run(tmp_path / "run", columns, "task=stsb"))
    r2, narrow = report.findings
    assert r2.startswith("R² is -0.101") and narrow.startswith(
        "the predictions hardly vary: their standard deviation is 0.05"
    )


def test_ordered_labels_are_named_beside_their_numbers(tmp_path: Path) -> None:
    columns = {"label": [1.0, 2.0, 3.0], "prediction": [1.1, 2.0, 2.5]}
    overrides = ("task=regression", "task.dataset=x.csv", "task.text=[text]", "task.label=rating")
    folder = write_finished_run(tmp_path / "run", columns, *overrides, "task.label_order=[bad,fair,good]")
    assert "Labels as numbers: 1 = bad, 2 = fair, 3 = good." in section(make_report(folder), "Predictions")


def test_scores_of_entities_and_tags_equal_those_of_seqeval_and_scikit_learn(tmp_path: Path) -> None:
    from seqeval.metrics import classification_report
    from seqeval.scheme import IOB2
    from sklearn.metrics import precision_recall_fscore_support

    labels = [[1, 2, 0, 3], [1, 0, 0], [3, 0, 1, 2], [0, 1, 0]]
    predictions = [[1, 2, 0, 0], [1, 2, 0], [1, 0, 1, -1], [0, 1, 0]]
    columns = {"label": labels, "prediction": predictions, "tokens": [["a"] * len(tags) for tags in labels]}
    overrides = ("task=token_classification", "task.dataset=x.jsonl", "task.text=[tokens]", "task.label=tags")
    report = make_report(write_finished_run(tmp_path / "run", columns, *overrides, names=TAGS))
    named = [[[TAGS[tag] if tag >= 0 else "O" for tag in tags] for tags in each] for each in (labels, predictions)]
    expected = classification_report(*named, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
    for line in report.lines[1:3]:
        kind, labeled, precision, recall, f1, *_ = line.split()
        assert int(labeled) == expected[kind]["support"]
        assert [float(x) if x != "–" else 0.0 for x in (precision, recall, f1)] == pytest.approx(
            [expected[kind][name] for name in ("precision", "recall", "f1-score")], abs=6e-4
        )
    assert report.findings == ["entity type LOC: 0 of 2 found (recall 0.000, 95 % interval 0.000 to 0.658)"]
    words = [[TAGS[tag] if tag >= 0 else None for tags in each for tag in tags] for each in (labels, predictions)]
    found = tag_scores([words[0]], [words[1]])
    known = precision_recall_fscore_support(
        words[0], [word or "-" for word in words[1]], labels=TAGS, zero_division=np.nan
    )
    for name, *values in zip(TAGS, *known, strict=True):
        each = found[name]
        np.testing.assert_allclose([each.precision.value, each.recall.value, each.f1.value, each.labeled], values)
    assert "Over words. 1 has no prediction" in section(report, "Tags")
    assert "a: I-PER → –" in section(report, "Sentences with most mistakes")


def test_answers_are_counted_by_their_references(tmp_path: Path) -> None:
    columns = {
        "label": [["the Elbe"], ["in Oslo", "Oslo"], ["at home"], []], "prediction": ["Elbe", "Oslo now", "<i>", ""],
        "question": ["a", "b", "c", "d"],
    }  # fmt: skip
    overrides = ("task=seq2seq", "model=t5", "task.dataset=x.jsonl", "task.text=[question]", "task.label=answer")
    report = make_report(write_finished_run(tmp_path / "run", columns, *overrides))
    assert report.lines == ["answers: equal to a reference 2, sharing words with one 1, sharing none 1"]
    assert report.findings == []
    page = section(report, "Answers farthest from their references")
    assert page.index("&lt;i&gt;") < page.index("Oslo now") and "Elbe" not in page


def test_frequent_answers_and_answer_forms_are_shown_beside_the_counts_of_labels(tmp_path: Path) -> None:
    columns = {"label": [["Rome"]], "prediction": ["Rome"], "question": ["a"]}
    counts = {
        "train": {"answered": 1_064, "most frequent answer": "<b>"},
        "validation": {"forms": {"none": 2, "json": 1}},
    }
    overrides = ("task=question_answering", "task.dataset=x.json")
    page = section(make_report(write_finished_run(tmp_path / "run", columns, *overrides, label_counts=counts)), "Data")
    for row in (
        ("answered", "1,064", "–"),
        ("most frequent answer", "&lt;b&gt;", "–"),
        ("forms", "–", "none 2, json 1"),
    ):
        assert re.search("(<[^>]*>)+".join(row), page)


@pytest.mark.parametrize(
    ("overrides", "values", "line"),
    [
        (
            ("task=language_modeling", "task.dataset=x.txt"),
            [1.0, 3.0, 2.0],
            "bits per byte: median 2, 5 % to 95 % 1.1 to 2.9",
        ),
        (("task=retrieval", "task.dataset=x.jsonl"), [1, 9, 2], "rank: median 2, 5 % to 95 % 1 to 9"),
        (
            ("task=preferences", "model=gpt2", "task.dataset=x.jsonl"),
            [0.5, -1.0, 2.0],
            "margin: median 0.5, 5 % to 95 % -0.85 to 1.85",
        ),
    ],
)
def test_the_worst_examples_come_first(
    tmp_path: Path, overrides: tuple[str, ...], values: list[float], line: str
) -> None:
    columns = {"label": [1, 1, 1], "prediction": values, "text": ["a", "worst", "c"]}
    report = make_report(write_finished_run(tmp_path / "run", columns, *overrides))
    assert report.lines == [line]
    content = "".join(report.sections[0].content)
    assert content.index("worst") < content.index(">a<") and content.index("worst") < content.index(">c<")


def test_a_kind_without_sections_of_its_own_has_the_common_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(SECTIONS, "regression")
    columns = {"label": [0.0, 1.0], "prediction": [0.0, 1.0]}
    report = make_report(write_finished_run(tmp_path / "run", columns, "task=stsb"))
    assert [each.title for each in report.sections] == ["Learning curve", "Data", "Settings", "Costs"]
    assert "333 k" in section(report, "Costs") and "20.0%" in section(report, "Costs")


def test_scores_of_several_labels_equal_those_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.metrics import precision_recall_fscore_support

    random = np.random.default_rng(0)
    true, predicted = (random.random((40, 4)) < [0.5, 0.3, 0.2, 0.0] for _ in range(2))
    labels, predictions = ([np.flatnonzero(row).tolist() for row in each] for each in (true, predicted))
    found = label_scores(labels, predictions, "abcd")
    expected = precision_recall_fscore_support(true, predicted, zero_division=np.nan)
    for name, *values in zip("abcd", *expected, strict=True):
        each = found[name]
        np.testing.assert_allclose([each.precision.value, each.recall.value, each.f1.value, each.labeled], values)


def test_a_run_with_several_labels_has_a_report(tmp_path: Path) -> None:
    columns = {"label": [[0], [0, 2], [], [1]], "prediction": [[0], [0], [2], [0, 1]], "text": ["a", "b", "c", "d"]}
    overrides = ("task=multilabel", "task.dataset=x.jsonl", "task.text=[text]", "task.label=label")
    scores = {"micro_f1": 0.6, "sample_f1": 0.5, "macro_f1": 0.4, "average_precision": 0.4}
    names = ["noise", "staff", "food", "never"]
    report = make_report(write_finished_run(tmp_path / "run", columns, *overrides, names=names, scores=scores))
    assert report.findings == ["label food: 0 of 1 found (recall 0.000, 95 % interval 0.000 to 0.793)"]
    assert "1 labels neither occur nor were predicted" in section(report, "Labels")
    assert report.page.count(" to ") > 3


def test_folds_thresholds_and_evaluations_are_listed(tmp_path: Path) -> None:
    columns = {"label": [[0], [1]], "prediction": [[0], [0]], "split": ["out_of_fold"] * 2}
    overrides = ("task=multilabel", "task.dataset=x.jsonl", "task.text=[text]", "task.label=label")
    folder = write_finished_run(tmp_path / "run", columns, *overrides, names=["a", "b"], scores={"micro_f1": 0.5})
    record = json.loads((folder / "result.json").read_text())
    folds = [{"examples": 1, "scores": {"micro_f1": each}} for each in (0.25, 0.75)]
    record["cross_validation"] = {"folds": folds, "spread": {"micro_f1": 0.354}}
    record["calibration"] = {
        "temperature": 1.0, "examples": 9, "thresholds": {"a": 0.5, "b": 0.125}, "scores": {"micro_f1": {"before": 0.4, "after": 0.5}},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(record))
    evaluation = {"scores": {"micro_f1": {"value": 0.875}}, "task": {"name": "other"}, "source": {"name": "<new>"}}
    (folder / "evaluation-other.json").write_text(json.dumps(evaluation))
    report = make_report(folder)
    assert "0.354" in section(report, "Folds") and "0.125" in section(report, "Thresholds")
    assert "micro_f1 0.875" in section(report, "Evaluations") and "&lt;new&gt;" in section(report, "Evaluations")
    assert "On out_of_fold (2 scored examples)" in section(report, "Labels")
    assert "Learning curve" not in [each.title for each in report.sections]  # each fold has its own
    (folder / "evaluation-other.json").write_text("{")
    with pytest.raises(UserError, match=r"evaluation-other.json.*delete it, or evaluate again"):
        make_report(folder)
