"""Resampled scores are those of the metrics, and only predictions on the same examples are paired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.recorded_runs import write_run
from scipy import stats

from peftkit.leaderboard.paired import NOT_REPRODUCED, OTHER_EXAMPLES, sample_of, scores_by_resample
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.stats import board_entries, task_score
from peftkit.metrics import score

RANKED = ("mrr", "recall_at_1", "recall_at_5", "recall_at_10", "ndcg_at_10")
REWARDS = ("reward_accuracy", "reward_margin")
CLASSES = {"accuracy": 2, "f1": 2, "macro_f1": 3, "matthews_correlation": 3}


def drawn(metric: str, examples: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and the predictions of three runs, with ties among the numbers."""
    random = np.random.default_rng(1)
    if metric in CLASSES:
        labels = random.integers(0, CLASSES[metric], examples)
        return labels, np.where(
            random.random((3, examples)) < 0.6, labels, random.integers(0, CLASSES[metric], examples)
        )
    if metric in RANKED:
        return np.ones(examples, int), random.integers(1, 15, (3, examples))
    if metric in REWARDS:
        return np.zeros(examples), random.integers(-3, 4, (3, examples)) / 2
    labels = random.integers(0, 11, examples) / 2
    return labels, np.round(labels + random.normal(size=(3, examples)), 1)


@pytest.mark.parametrize("metric", [*CLASSES, *RANKED, *REWARDS, "pearson", "spearman", "mean_squared_error"])
def test_weighted_metrics_are_the_recorded_ones(metric: str) -> None:
    labels, runs = drawn(metric)
    whole, resampled = scores_by_resample([metric], labels, runs, np.full(60, "validation"), 40)
    assert whole == pytest.approx([task_score(score([metric], run, labels)) for run in runs], abs=1e-12)
    again = np.random.default_rng(0).integers(0, 60, (40, 60))  # the resamples that were drawn
    for number in (0, 7, 39):
        rows = again[number]
        expected = [task_score(score([metric], run[rows], labels[rows])) for run in runs]
        assert resampled[number] == pytest.approx(expected, abs=1e-12)


def test_pairs_are_ranked_by_accuracy_alone() -> None:
    names = ["reward_accuracy", "reward_margin", "chosen_perplexity"]
    labels, runs = drawn("reward_accuracy")
    whole, _ = scores_by_resample(names, labels, runs, np.full(60, "validation"), 5)
    recorded = [score(names, run, labels, likelihoods=(np.ones(60), np.ones(60))) for run in runs]
    assert whole == pytest.approx([each["reward_accuracy"]["value"] for each in recorded])
    assert whole == pytest.approx([task_score(each) for each in recorded])


def test_weighted_bits_per_byte_are_those_of_all_passages_together() -> None:
    random = np.random.default_rng(2)
    sizes, bits = random.integers(20, 90, 60), random.random((3, 60)) + 1
    whole, resampled = scores_by_resample(["bits_per_byte"], sizes, bits, np.full(60, "held_out"), 5)

    def expected(rows: np.ndarray) -> list[float]:
        return [task_score(score(["bits_per_byte"], run[rows], sizes[rows])) for run in bits]

    assert whole == pytest.approx(expected(np.arange(60)), abs=1e-12)
    again = np.random.default_rng(0).integers(0, 60, (5, 60))
    assert resampled[4] == pytest.approx(expected(again[4]), abs=1e-12)


@pytest.mark.parametrize("metric", ["f1", "macro_f1"])
def test_f1_is_that_of_the_labels_of_the_task(metric: str) -> None:
    labels, runs = drawn("f1")  # two of three classes
    names = ["a", "b", "c"]
    whole, resampled = scores_by_resample([metric], labels, runs, np.full(60, "validation"), 20, classes=3)
    expected = [task_score(score([metric], run, labels, label_names=names)) for run in runs]
    assert whole == pytest.approx(expected, abs=1e-12) and (resampled < 0.67).all()


@pytest.mark.parametrize("metric", ["f1", "matthews_correlation", "pearson", "spearman"])
def test_one_constant_prediction_scores_zero(metric: str) -> None:
    labels, runs = drawn(metric)
    whole, resampled = scores_by_resample([metric], labels, np.zeros_like(runs), np.full(60, "validation"), 5)
    assert not whole.any()
    assert not resampled.any()


def test_tags_count_by_word() -> None:
    labels, said = np.empty(2, object), np.empty((1, 2), object)
    labels[:] = [[1, 2, 0], [3]]
    said[0, :] = [[1, 2, 5], [-1]]
    whole, _ = scores_by_resample(["token_accuracy"], labels, said, np.full(2, "validation"), 1)
    assert whole == [0.5]


def test_a_metric_of_one_split_sees_that_split_alone() -> None:
    labels, runs = np.zeros(6, int), np.array([[0, 0, 0, 0, 1, 1]])
    splits = np.array(["validation_matched"] * 4 + ["validation_mismatched"] * 2)
    metrics = ["accuracy_matched", "accuracy_mismatched"]
    assert scores_by_resample(metrics, labels, runs, splits, 1)[0] == [0.5]


def test_the_bootstrap_agrees_with_scipy() -> None:
    labels, runs = drawn("pearson", 200)
    _, resampled = scores_by_resample(["pearson"], labels, runs[:2], np.full(200, "validation"), 1000)

    def difference(label: Any, one: Any, other: Any, axis: int) -> Any:  # of all resamples at once
        return stats.pearsonr(label, one, axis=axis).statistic - stats.pearsonr(label, other, axis=axis).statistic

    found = stats.bootstrap(
        (labels, *runs[:2]), difference, paired=True, n_resamples=1000, method="basic", rng=np.random.default_rng(5)
    )
    assert np.std(resampled[:, 0] - resampled[:, 1]) == pytest.approx(found.standard_error, rel=0.1)


def rows_of(
    root: Path, changes: dict[str, Any] | None = None, metrics: tuple[str, ...] = ("accuracy",)
) -> list[BoardEntry]:
    """Write two methods of three seeds with predictions, one of them changed, and return their rows."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 50)
    for method in ("full", "lora"):
        for seed in range(3):
            said = np.where(random.random(50) < 0.8, labels, 1 - labels)
            columns: dict[str, Any] = {
                "id": np.arange(50),
                "split": ["validation"] * 50,
                "label": labels,
                "prediction": said,
            }
            value = float(np.mean(said == labels))
            if method == "lora" and seed == 1:
                columns |= changes or {}
                order = np.argsort(-np.asarray(columns["id"])) if changes is None else np.arange(50)
                columns = {name: np.asarray(each)[order] for name, each in columns.items()}
            write_run(
                root, f"{method}{seed}", method=method, seed=seed, value=value, metrics=dict.fromkeys(metrics, True)
            )
            pq.write_table(pa.table(columns), root / f"{method}{seed}" / "predictions.parquet")
    return board_entries(collect([root]))


def test_examples_are_paired_by_id_whatever_their_order(tmp_path: Path) -> None:
    sample = sample_of(rows_of(tmp_path))
    assert [None if e.resampled is None else e.resampled.shape[1] for e in sample.entries] == [3, 3]
    assert (sample.examples, sample.left_out) == (50, {})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": np.arange(50) + 7}, OTHER_EXAMPLES),
        ({"label": np.ones(50, int)}, OTHER_EXAMPLES),
        ({"prediction": np.zeros(50, int)}, NOT_REPRODUCED),
    ],
)
def test_predictions_that_cannot_be_paired_are_noted(tmp_path: Path, changes: dict, reason: str) -> None:
    rows = rows_of(tmp_path, changes)
    sample = sample_of(rows)
    assert sample.left_out == {reason: ["lora"]}
    assert sample.entries[[row.method for row in rows].index("lora")].resampled is None


def test_a_torn_file_counts_as_none(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    (tmp_path / "lora0" / "predictions.parquet").write_bytes(b"PAR1")
    sample = sample_of(rows)
    assert sample.left_out == {"no predictions": ["lora"]}


def test_metrics_without_a_weighted_form_are_noted(tmp_path: Path) -> None:
    sample = sample_of(rows_of(tmp_path, metrics=("exact_match",)))
    assert sample.not_resampled == ["exact_match"]
    assert sample.examples == 0


def test_predictions_of_a_single_entry_are_not_read(tmp_path: Path) -> None:
    (row, *_) = rows_of(tmp_path)
    (row.runs[0].folder / "predictions.parquet").write_bytes(b"never read")
    sample = sample_of([row])
    assert (len(sample.first), sample.left_out) == (0, {})


def test_tagged_words_are_paired_by_sentence(tmp_path: Path) -> None:
    labels = [[1, 2], [0], [2, 2, 1]]
    for seed, said in enumerate(([[1, 0], [0], [2, 2, 1]], [[1, 2], [-1], [2, 0, 1]])):
        for method in ("full", "lora"):
            right = sum(
                a == b for one, other in zip(labels, said, strict=True) for a, b in zip(one, other, strict=True)
            )
            write_run(
                tmp_path, f"{method}{seed}", method=method, seed=seed, value=right / 6, metrics={"token_accuracy": True}
            )
            columns = {"id": [0, 1, 2], "split": ["validation"] * 3, "label": labels, "prediction": said}
            pq.write_table(pa.table(columns), tmp_path / f"{method}{seed}" / "predictions.parquet")
    sample = sample_of(board_entries(collect([tmp_path])))
    assert (sample.examples, sample.left_out, sample.not_resampled) == (3, {}, [])
    assert all(entry.resampled is not None for entry in sample.entries)
