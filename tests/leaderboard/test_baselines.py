"""Baselines are what scikit-learn's dummy estimators score, never rank, and flag the methods that are not better."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.recorded_runs import write_run
from scipy import stats
from sklearn import metrics
from sklearn.dummy import DummyClassifier, DummyRegressor
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from peftkit.leaderboard.baselines import with_baselines
from peftkit.leaderboard.board import Board
from peftkit.leaderboard.files import write_tables
from peftkit.leaderboard.glue import glue_entries
from peftkit.leaderboard.latex import write_latex
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.sentences import headlines
from peftkit.leaderboard.stats import GLUE, board_entries
from peftkit.leaderboard.verdict import Comparison
from peftkit.metrics import METRICS

EXAMPLES = 300
NAMES = ["no", "yes"]


def record(
    root: Path, name: str, labels: Any, predictions: Any, metrics: tuple[str, ...] = ("accuracy",),
    audit: dict[str, Any] | None = None, **run: Any,
) -> None:  # fmt: skip
    """Write a run with its predictions, scored as they are, and what the audit has in addition."""
    write_run(root, name, metrics=dict.fromkeys(metrics, True), **run)
    columns = {"id": list(range(len(labels))), "split": ["validation"] * len(labels)}
    pq.write_table(
        pa.table(columns | {"label": labels, "prediction": predictions}), root / name / "predictions.parquet"
    )
    file = root / name / "result.json"
    content = json.loads(file.read_text())
    for each in metrics:
        if METRICS[each].input in ("classes", "numbers") and not isinstance(labels[0], list):
            content["scores"][each]["value"] = METRICS[each].score(labels, predictions)
    content["audit"] |= audit or {}
    file.write_text(json.dumps(content))


def classes(
    root: Path, skills: dict[str, float], seeds: int = 1, metrics: tuple[str, ...] = ("accuracy",), **run: Any
) -> np.ndarray:
    """Write methods that answer a share of 70 % yes labels correctly, trained on 80 % yes; return the labels."""
    random = np.random.default_rng(0)
    labels = (random.random(EXAMPLES) < 0.7).astype(int)
    audit = {"label_names": NAMES, "label_counts": {"train": {"no": 20, "yes": 80}, "validation": {"no": 1, "yes": 1}}}
    for method, skill in skills.items():
        for seed in range(seeds):
            right = random.random(EXAMPLES) < skill
            given = np.where(right, labels, 1 - labels) if skill else np.ones(EXAMPLES, int)
            record(root, f"{method}{seed}", labels, given, metrics, audit, method=method, seed=seed, **run)
    return labels


def made(root: Path) -> dict[str, BoardEntry]:
    return {entry.method: entry for entry in Board.read([root]).entries}


def test_the_majority_class_is_that_of_training_and_scored_like_a_dummy_classifier(tmp_path: Path) -> None:
    names = ("accuracy", "f1", "macro_f1", "matthews_correlation")
    labels = classes(tmp_path, {"lora": 0.9}, metrics=names)
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((100, 1)), [0] * 20 + [1] * 80)
    given = dummy.predict(np.zeros((EXAMPLES, 1)))
    majority = made(tmp_path)["majority class"]
    assert (majority.answer, majority.is_baseline, majority.costs) == (1, True, {})
    assert {name: each.mean for name, each in majority.scores.items()} == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(labels, given), "f1": metrics.f1_score(labels, given),
            "macro_f1": metrics.f1_score(labels, given, average="macro"),
            "matthews_correlation": metrics.matthews_corrcoef(labels, given),
        }
    )  # fmt: skip


def test_chance_is_the_expected_score_of_uniform_answers(tmp_path: Path) -> None:
    labels = classes(tmp_path, {"lora": 0.9}, metrics=("accuracy", "f1"))
    chance = made(tmp_path)["chance"]
    given = np.random.default_rng(1).integers(0, 2, (1000, EXAMPLES))
    expected = np.mean(2 * (given * labels).sum(1) / (given.sum(1) + labels.sum()))
    assert chance.scores["accuracy"].mean == pytest.approx(0.5)
    assert chance.scores["f1"].mean == pytest.approx(expected, abs=0.01)


def test_numbers_have_their_training_mean_and_no_correlation_by_chance(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels, audit = (
        random.normal(3, 1, EXAMPLES),
        {"label_counts": {"train": {"minimum": 0.0, "maximum": 9.0, "mean": 2.5}}},
    )
    record(tmp_path, "a", labels, labels + random.normal(0, 1, EXAMPLES), ("pearson", "mean_squared_error"), audit)
    file = tmp_path / "a" / "result.json"
    content = json.loads(file.read_text())
    content["scores"]["mean_squared_error"]["higher_is_better"] = False
    file.write_text(json.dumps(content))
    entries = made(tmp_path)
    given = DummyRegressor().fit(np.zeros((2, 1)), [2.0, 3.0]).predict(np.zeros((EXAMPLES, 1)))
    assert entries["mean label"].scores["mean_squared_error"].mean == pytest.approx(
        metrics.mean_squared_error(labels, given)
    )
    assert entries["chance"].scores["mean_squared_error"].mean == pytest.approx(2 * labels.var(), rel=0.02)
    assert [entries[name].scores["pearson"].mean for name in ("mean label", "chance")] == pytest.approx(
        [0, 0], abs=0.01
    )


def test_tags_texts_pairs_and_ranks_have_the_baselines_that_make_sense(tmp_path: Path) -> None:
    tags = {"label_names": ["O", "B-PER"], "label_counts": {"train": {"O": 9, "B-PER": 1}}}
    record(tmp_path, "t", [[0, 1, 0], [0]], [[0, 1, 0], [0]], ("token_accuracy", "entity_f1"), tags, task="tags")
    record(tmp_path, "e", [[0, 1, 0], [0]], [[0, 1, 0], [0]], ("entity_f1",), tags, task="spans")
    texts = {"label_counts": {"train": {"most frequent answer": "Paris"}}}
    record(tmp_path, "q", [["Paris"], ["Rome"]], ["Paris", "Paris"], ("exact_match",), texts, task="answers")
    record(tmp_path, "p", [0.0, 0.0], [0.2, -0.1], ("reward_accuracy",), task="pairs")
    record(tmp_path, "r", [1] * 40, [1] * 40, ("mrr",), {"label_counts": {"train": {"documents": 10}}}, task="ranks")
    found = {(each.task, each.method): each for each in Board.read([tmp_path]).entries if each.is_baseline}
    means = {key: {name: value.mean for name, value in each.scores.items()} for key, each in found.items()}
    assert means.pop(("ranks", "chance"))["mrr"] == pytest.approx(np.mean(1 / np.arange(1, 11)), abs=0.01)
    assert means.pop(("tags", "chance")).keys() == {"token_accuracy", "entity_f1"}
    assert means.pop(("spans", "majority tag")) == {"entity_f1": 0.0} and means.pop(("spans", "chance"))
    assert means == {
        ("tags", "majority tag"): {"token_accuracy": 0.75, "entity_f1": 0.0},
        ("answers", "most frequent answer"): {"exact_match": 0.5},
        ("pairs", "chance"): {"reward_accuracy": 0.5},
    }


@pytest.mark.parametrize(("counts", "answer"), [((70, 30, 10), [0]), ((70, 60, 10), [0, 1]), ((30, 45, 10), [1])])
def test_several_labels_have_those_of_most_examples_or_the_most_frequent(
    tmp_path: Path, counts: tuple[int, ...], answer: list[int]
) -> None:
    random = np.random.default_rng(0)
    rows = (random.random((EXAMPLES, 3)) < [0.7, 0.4, 0.1]).astype(int)
    labels, names = [np.flatnonzero(row).tolist() for row in rows], ["a", "b", "c"]
    audit = {
        "label_names": names, "rows": {"train": 100}, "label_counts": {"train": dict(zip(names, counts, strict=True))}
    }  # fmt: skip
    record(tmp_path, "m", labels, labels, ("micro_f1", "macro_f1"), audit)
    majority = made(tmp_path)["majority labels"]
    always = np.tile([int(number in answer) for number in range(3)], (EXAMPLES, 1))
    assert majority.answer == answer
    for name in ("micro", "macro"):
        expected = metrics.f1_score(rows, always, average=name, zero_division=0)
        assert majority.scores[f"{name}_f1"].mean == pytest.approx(expected)


def test_old_results_fall_back_to_what_is_recorded_and_state_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = (random.random(EXAMPLES) < 0.7).astype(int)
    record(tmp_path, "a", labels, labels, audit={"label_names": NAMES})
    write_run(tmp_path, "counted", task="sst2")  # neither predictions nor counts of labels
    entries = Board.read([tmp_path]).entries
    assert [(each.task, each.method, each.all_settings.get("task.labels")) for each in entries if each.is_baseline] == [
        ("rte", "majority class", "validation"),
        ("rte", "chance", None),
    ]
    audit = {"label_names": NAMES, "label_counts": {"train": {"no": 9, "yes": 1}, "validation": {"no": 30, "yes": 70}}}
    write_run(tmp_path / "old", "a")
    file = tmp_path / "old" / "a" / "result.json"
    content = json.loads(file.read_text())
    content["audit"] |= audit
    file.write_text(json.dumps(content))
    assert made(tmp_path / "old")["majority class"].score == pytest.approx(0.3)


def test_a_test_against_the_majority_is_an_exact_mcnemar_with_its_own_holm_family(tmp_path: Path) -> None:
    labels = classes(tmp_path, {"lora": 0.85, "ia3": 0.67, "prompt": 0.0})
    board = Board.read([tmp_path])
    right = {}
    for method in ("lora", "ia3", "prompt"):
        right[method] = (
            pq.read_table(tmp_path / f"{method}0" / "predictions.parquet")["prediction"].to_numpy() == labels
        )
    tests = {board.entries[c.first].method: c for c in board.verdict().against_baseline}
    always = labels == 1
    for method, test in tests.items():
        table = [[np.sum((right[method] == a) & (always == b)) for b in (True, False)] for a in (True, False)]
        assert test.p == pytest.approx(mcnemar(table, exact=True).pvalue)
        assert test.difference == pytest.approx(right[method].mean() - always.mean())
    adjusted = multipletests([test.p for test in tests.values()], method="holm")[1]
    assert [test.p_holm for test in tests.values()] == pytest.approx(adjusted)
    assert len(board.verdict().comparisons) == 3  # of methods alone
    outcomes = {entry.method: entry.against_baseline for entry in board.entries}
    assert outcomes == {
        "lora": "better", "ia3": "not better", "prompt": "not better", "majority class": "", "chance": ""
    }  # fmt: skip


def test_without_noise_of_seeds_it_is_a_paired_test_over_examples(tmp_path: Path) -> None:
    labels = classes(tmp_path, {"lora": 0.8}, seeds=1)
    given = pq.read_table(tmp_path / "lora0" / "predictions.parquet")["prediction"].to_numpy()
    audit = json.loads((tmp_path / "lora0" / "result.json").read_text())["audit"]
    for seed in (1, 2):
        record(tmp_path, f"lora{seed}", labels, given, audit=audit, method="lora", seed=seed)
    (test,) = Board.read([tmp_path]).verdict().against_baseline
    expected = stats.ttest_rel((given == labels).astype(float), (labels == 1).astype(float))
    assert (test.test, test.p) == ("seeds, examples", pytest.approx(expected.pvalue, rel=0.3, abs=1e-4))
    low, high = expected.confidence_interval()
    assert (test.low, test.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_baselines_never_rank_nor_change_the_tests_of_methods(tmp_path: Path) -> None:
    classes(tmp_path, {"lora": 0.6, "ia3": 0.4}, seeds=2)  # both are worse than the majority
    runs = collect([tmp_path])
    board, alone = Board(tuple(runs)), board_entries(runs)
    assert [entry.method for entry in board.entries] == ["lora", "ia3", "majority class", "chance"]
    from peftkit.leaderboard.verdict import compare_entries, rank_tasks

    assert board.verdict().comparisons == compare_entries(alone, runs).comparisons
    (ranking,) = rank_tasks(board.entries, board.verdict().groups)
    assert (ranking.ranked, ranking.baselines) == ([0, 1], [2, 3])
    assert board.verdict().groups[2:] == ["", ""]
    assert not any("majority" in name for key in board.verdict().records for name in key[1:])


def test_two_training_sets_have_baselines_of_their_own_only_where_they_differ(tmp_path: Path) -> None:
    labels = classes(tmp_path, {"lora": 0.9})
    audit = {"label_names": NAMES, "label_counts": {"train": {"no": 9, "yes": 1}}}
    record(tmp_path, "few", labels, labels, audit=audit, method="ia3", rows={"train": 10})
    entries = Board.read([tmp_path]).entries
    assert {each.name for each in entries if each.is_baseline} == {
        "majority class answer=yes", "majority class answer=no", "chance"
    }  # fmt: skip
    assert {each.method: each.constant_baseline for each in entries if not each.is_baseline} == {
        "lora": "majority class answer=yes", "ia3": "majority class answer=no"
    }  # fmt: skip


def test_a_method_that_is_not_better_is_flagged_everywhere(tmp_path: Path) -> None:
    classes(tmp_path / "runs", {"lora": 0.72, "ia3": 0.0}, metrics=("accuracy", "f1"))
    board = Board.read([tmp_path / "runs"])
    (lines,) = headlines(board.entries, board.verdict().groups, board.verdict().detectable).values()
    text = dict(lines)["rte"]
    assert "(not better than majority)" in text
    assert "None is significantly better than the majority class (" in text
    assert "(mean of accuracy and f1)" in text
    write_tables(board, tmp_path / "board")
    with (tmp_path / "board" / "leaderboard.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows["ia3"]["vs. majority"] == "not better than majority"
    assert (rows["majority class"]["baseline"], rows["ia3"]["baseline"]) == ("True", "False")
    assert rows["ia3"]["score is"] == "mean of accuracy and f1"
    assert "| not better |" in (tmp_path / "board" / "leaderboard.md").read_text()
    write_latex(board.entries, board.verdict().groups, tmp_path / "board.tex")
    tex = (tmp_path / "board.tex").read_text()
    assert r"$\dagger$ not better than majority" in tex
    assert r"a$\dagger$}" in tex
    assert r"\midrule" + "\nmajority class & " in tex


def test_glues_average_is_tested_against_that_of_the_baselines(tmp_path: Path) -> None:
    for number, task in enumerate(GLUE):
        labels = np.r_[np.zeros(40, int), np.ones(60, int)]
        audit = {"label_names": NAMES, "label_counts": {"train": {"no": 1, "yes": 2}}}
        for method, right in (("lora", 62 + number), ("ia3", 60)):
            record(
                tmp_path,
                f"{method}{task}",
                labels,
                np.where(np.arange(100) < right, labels, 1 - labels),
                audit=audit,
                method=method,
                task=task,
            )
    entries = with_baselines(board_entries(collect([tmp_path])))
    numbers = {entry.method + entry.task: n for n, entry in enumerate(entries)}

    def test(method: str, task: str, difference: float) -> Comparison:
        first, second = numbers[method + task], numbers["majority class" + task]
        return Comparison(first, second, difference, 0.06, 0, 0, 1, 1, False, "seeds, examples", 100, 1)

    tests = [test("lora", task, 0.1) for task in GLUE] + [test("ia3", task, 0.03) for task in GLUE]
    lora, ia3, *baselines = glue_entries(entries, tests)
    z = np.array([0.1, 0.03]) / (0.06 / 3)  # nine independent tasks
    expected = multipletests(2 * stats.norm.sf(z), method="holm")[0]
    assert [each.against_baseline == "better" for each in (lora, ia3)] == expected.tolist() == [True, False]
    assert [(line.method, line.average) for line in baselines] == [
        ("majority class", pytest.approx(0.6)), ("chance", pytest.approx(0.5))
    ]  # fmt: skip
