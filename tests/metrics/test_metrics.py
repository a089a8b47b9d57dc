"""Scores agree with numbers worked out by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from peftkit.metrics import METRICS, score


def value(name: str, predictions: list, labels: list) -> float:
    return score([name], predictions, labels)[name]["value"]


def test_scores_by_hand() -> None:
    predictions, labels = [1, 1, 1, 0, 0], [1, 1, 0, 0, 1]  # TP 2, FP 1, TN 1, FN 1
    assert value("accuracy", predictions, labels) == pytest.approx(3 / 5)
    assert value("f1", predictions, labels) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert value("matthews_correlation", predictions, labels) == pytest.approx((2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2))
    assert value("macro_f1", predictions, labels) == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert value("spearman", [1.0, 2.0, 4.0], [1.0, 5.0, 9.0]) == pytest.approx(1.0)
    assert value("pearson", [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert value("mean_squared_error", [1.0, 2.0], [1.0, 4.0]) == pytest.approx(2.0)


def test_tags_are_scored_as_words_and_as_spans() -> None:
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    labels, said = (
        [[1, 2, 0, 3], [0, 3]],
        [[1, 0, 0, 3], [-1, 3]],
    )  # one span of three is cut short, one word has no tag
    found = score(["token_accuracy", "entity_f1"], said, labels, label_names=names)
    assert found["token_accuracy"]["value"] == pytest.approx(4 / 6)  # no tag is wrong, also where O was right
    assert found["entity_f1"]["value"] == pytest.approx(2 * 2 / (3 + 3))


def test_texts_are_scored_by_the_best_reference() -> None:
    said, right = ["The Eiffel tower!", "", "in Rome"], [["eiffel tower", "tower"], [], ["Rome"]]
    assert value("exact_match", said, right) == pytest.approx(2 / 3)
    assert value("token_f1", said, right) == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert value("rouge_l", ["東京 に 行く", "Zoë"], [["東京 に 行く"], ["Zoë"]]) == 1.0
    assert value("rouge_l", ["a b c d"], [["a c d"]]) == pytest.approx(2 * (3 / 4) / (1 + 3 / 4))


def test_perplexity_weighs_tokens_alike() -> None:
    likelihoods = (np.array([2.0, 12.0]), np.array([1, 6]))
    found = score(["perplexity"], [2.0, 2.0], [[], []], likelihoods=likelihoods)
    assert found["perplexity"]["value"] == pytest.approx(np.exp(2))


@pytest.mark.parametrize("name", ["pearson", "spearman", "matthews_correlation"])
def test_constant_predictions_score_zero(name: str) -> None:
    assert value(name, [1, 1, 1, 1], [0, 1, 0, 1]) == 0.0


def test_a_tie_of_rewards_counts_half() -> None:
    assert value("reward_accuracy", [0.2, 0.0, -3.0, 0.0], [0.0] * 4) == 0.5
    assert value("reward_margin", [0.5, -0.1], [0.0] * 2) == pytest.approx(0.2)


def test_every_metric_knows_its_direction() -> None:
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == {
        "mean_squared_error",
        "perplexity",
        "bits_per_byte",
        "chosen_perplexity",
    }


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean accuracy"):
        score(["acuracy"], [1], [1])


def test_splits_of_one_task_are_told_apart() -> None:
    assert list(score(["accuracy"], [1], [1], suffix="_matched")) == ["accuracy_matched"]


def test_f1_of_three_classes_is_the_mean_over_them() -> None:
    predictions, labels = [0, 1, 2, 2], [0, 1, 1, 2]  # F1 of 1, 2/3 and 2/3
    assert value("f1", predictions, labels) == pytest.approx(7 / 9)


def test_predictions_of_a_diverged_model_are_refused() -> None:
    with pytest.raises(ValueError, match="diverged"):
        score(["pearson"], [float("nan"), 1.0], [0.0, 1.0])


def test_a_single_row_scores_without_a_warning() -> None:
    assert [value(name, [1], [1]) for name in ("matthews_correlation", "pearson", "accuracy")] == [0.0, 0.0, 1.0]


@pytest.mark.slow
def test_scoring_writes_nothing_at_home_and_two_processes_do_not_clash(tmp_path: Path) -> None:
    code = (  # one process that becomes two: the imports take seconds
        "import os; from peftkit.metrics import score; child = os.fork()\n"
        "scores = [score(['accuracy', 'f1', 'pearson'], [0, 1], [0, 1]) for _ in range(20)]\n"
        "os.write(1, f'{scores[-1]}\\n'.encode())\n"
        "if child: assert os.waitpid(child, 0)[1] == 0"
    )
    home = {**os.environ, "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run([sys.executable, "-c", code], env=home, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second and "accuracy" in first
    assert list(tmp_path.rglob("*")) == []
