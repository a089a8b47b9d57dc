"""Scores equal numbers computed by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from seqeval.metrics import f1_score as seqeval_f1
from sklearn import metrics as sklearn_metrics

from peftkit.config import UserError
from peftkit.config.tag_schemes import scheme_of
from peftkit.metrics import METRICS, as_evaluate, score, split_suffix


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
    labels, predictions = (
        [[1, 2, 0, 3], [0, 3]],
        [[1, 0, 0, 3], [-1, 3]],
    )  # one span of three is cut short, one word has no tag
    found = score(["token_accuracy", "entity_f1"], predictions, labels, label_names=names)
    assert found["token_accuracy"]["value"] == pytest.approx(4 / 6)  # no tag is wrong, also where O was right
    assert found["entity_f1"]["value"] == pytest.approx(2 * 2 / (3 + 3))


def test_texts_are_scored_by_the_best_reference() -> None:
    predictions, right = ["The Eiffel tower!", "", "in Rome"], [["eiffel tower", "tower"], [], ["Rome"]]
    assert value("exact_match", predictions, right) == pytest.approx(2 / 3)
    assert value("token_f1", predictions, right) == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert value("rouge_l", ["東京 に 行く", "Zoë"], [["東京 に 行く"], ["Zoë"]]) == 1.0
    assert value("rouge_l", ["a b c d"], [["a c d"]]) == pytest.approx(2 * (3 / 4) / (1 + 3 / 4))


def test_perplexity_weights_tokens_equally() -> None:
    likelihoods = (np.array([2.0, 12.0]), np.array([1, 6]))
    found = score(["perplexity"], [2.0, 2.0], [[], []], likelihoods=likelihoods)
    assert found["perplexity"]["value"] == pytest.approx(np.exp(2))


@pytest.mark.parametrize("name", ["pearson", "spearman", "matthews_correlation"])
def test_constant_predictions_score_zero(name: str) -> None:
    assert value(name, [1, 1, 1, 1], [0, 1, 0, 1]) == 0.0


def test_a_tie_of_rewards_counts_half() -> None:
    assert value("reward_accuracy", [0.2, 0.0, -3.0, 0.0], [0.0] * 4) == 0.5
    assert value("reward_margin", [0.5, -0.1], [0.0] * 2) == pytest.approx(0.2)


def test_every_metric_has_a_direction() -> None:
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == {
        "mean_squared_error",
        "perplexity",
        "bits_per_byte",
        "chosen_perplexity",
    }


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean accuracy"):
        score(["acuracy"], [1], [1])


def test_splits_of_one_task_have_different_names() -> None:
    assert list(score(["accuracy"], [1], [1], suffix="_matched")) == ["accuracy_matched"]


def test_scores_of_several_splits_have_their_names() -> None:
    splits = ["validation", "validation_matched", "dev"]
    assert [split_suffix(split, splits) for split in splits] == ["", "_matched", "_dev"]
    assert split_suffix("dev", ["dev"]) == ""


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_f1_is_that_of_the_labels_of_the_task(classes: int) -> None:
    random = np.random.default_rng(classes)
    names = [f"label {number}" for number in range(classes)]
    for _ in range(30):
        present = random.choice(classes, random.integers(1, classes + 1), replace=False)  # the others have no example
        labels, predictions = random.choice(present, 12), random.choice(random.choice(classes, 2), 12)
        found = score(["f1", "macro_f1"], predictions, labels, label_names=names)
        options = {"labels": range(classes), "zero_division": 0}
        macro = sklearn_metrics.f1_score(labels, predictions, average="macro", **options)
        binary = sklearn_metrics.f1_score(labels, predictions, labels=[1], average=None, zero_division=0)[0]
        assert found["macro_f1"]["value"] == pytest.approx(macro)
        assert found["f1"]["value"] == pytest.approx(binary if classes == 2 else macro)


def test_without_tokens_there_is_no_perplexity() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        score(["perplexity"], [0.0], [[]], likelihoods=(np.zeros(1), np.zeros(1)))
    with pytest.raises(ValueError, match="diverged"):
        score(["perplexity"], [0.0], [[]], likelihoods=(np.array([np.inf]), np.ones(1)))


@pytest.mark.parametrize(
    ("labels", "predictions"), [([0, 1, 2, 0], [1] * 4), ([1] * 4, [0, 1, 2, 1]), ([1] * 4, [1] * 4)]
)
def test_degenerate_predictions_score_as_in_scikit_learn(labels: list[int], predictions: list[int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sklearn_metrics.matthews_corrcoef(labels, predictions)
    assert value("matthews_correlation", predictions, labels) == pytest.approx(expected)
    for name in ("pearson", "spearman"):
        assert value(name, [each / 10 for each in predictions], [each / 7 for each in labels]) == 0.0


def test_predictions_of_a_diverged_model_are_refused() -> None:
    with pytest.raises(ValueError, match="diverged"):
        score(["pearson"], [float("nan"), 1.0], [0.0, 1.0])


def test_a_single_example_scores_without_a_warning() -> None:
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


def predictions_of(metric: str, examples: int = 200) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    if METRICS[metric].input == "classes":
        return random.integers(0, 4, examples), random.integers(0, 4, examples)
    labels = random.integers(0, 11, examples) / 2
    return labels, np.round(labels + random.normal(size=examples), 1)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("accuracy", sklearn_metrics.accuracy_score),
        ("macro_f1", partial(sklearn_metrics.f1_score, average="macro")),
        ("f1", partial(sklearn_metrics.f1_score, average="macro")),
        ("matthews_correlation", sklearn_metrics.matthews_corrcoef),
        ("mean_squared_error", sklearn_metrics.mean_squared_error),
        ("pearson", lambda labels, predictions: stats.pearsonr(labels, predictions).statistic),
        ("spearman", lambda labels, predictions: stats.spearmanr(labels, predictions).statistic),
    ],
)
def test_scores_are_those_of_scikit_learn_and_scipy(name: str, reference: Callable[..., float]) -> None:
    labels, predictions = predictions_of(name)
    assert value(name, list(predictions), list(labels)) == pytest.approx(
        float(reference(labels, predictions)), abs=1e-12
    )


def test_correlations_do_not_depend_on_the_unit() -> None:
    labels, predictions = predictions_of("pearson")
    expected = stats.pearsonr(labels, predictions).statistic
    assert value("pearson", list(predictions * 1e-9), list(labels * 1e-9)) == pytest.approx(expected)


def tagged(spans: list[tuple[int, int, str]], length: int, name: str) -> list[str]:
    """Return the tags of spans (start, end, type), in order, in a scheme."""
    tags = ["O"] * length
    for number, (start, end, kind) in enumerate(spans):
        inner = ["I"] * (end - start)
        follows = number > 0 and spans[number - 1][1:] == (start, kind)
        leads = number + 1 < len(spans) and spans[number + 1][::2] == (end, kind)
        if name in ("IOB2", "IOBES", "BILOU") or (name == "IOB1" and follows):
            inner[0] = "B"
        if name == "IOE2" or (name == "IOE1" and leads):
            inner[-1] = "E"
        if name in ("IOBES", "BILOU"):
            last, single = name[3:] if name == "IOBES" else "LU"
            inner[-1] = last if len(inner) > 1 else single
        tags[start:end] = [f"{prefix}-{kind}" for prefix in inner]
    return tags


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU"])
def test_spans_are_those_of_seqeval_in_the_scheme_of_the_labels(scheme: str) -> None:
    from seqeval import scheme as schemes

    random = np.random.default_rng(0)
    for _ in range(5):
        labels, predictions = [], []
        for length in random.integers(1, 12, 30):
            cuts = sorted({0, *random.integers(0, length, 3).tolist(), int(length)})
            kinds = random.choice(["PER", "LOC", "O"], len(cuts) - 1)
            spans = [(a, b, str(kind)) for a, b, kind in zip(cuts, cuts[1:], kinds, strict=False) if kind != "O"]
            labels.append(tagged(spans, int(length), scheme))
        names = sorted({tag for tags in labels for tag in tags})
        for tags in labels:  # also sequences that the scheme does not allow
            predictions.append([tag if random.random() < 0.7 else str(random.choice(names)) for tag in tags])
        assert scheme_of(labels, names) == scheme
        ids = [[[names.index(tag) for tag in tags] for tags in each] for each in (predictions, labels)]
        found = score(["entity_f1"], *ids, label_names=names)["entity_f1"]["value"]
        assert found == pytest.approx(seqeval_f1(labels, predictions, mode="strict", scheme=getattr(schemes, scheme)))
        assert score(["entity_f1"], ids[1], ids[1], label_names=names)["entity_f1"]["value"] == 1.0


def test_the_scheme_is_that_of_most_tags() -> None:
    names = ["O", "B-X", "I-X"]
    assert scheme_of([["B-X", "I-X", "O", "B-X"], ["I-X"]], names) == "IOB2"  # one tag is wrong
    assert scheme_of([["I-X", "B-X", "O"]], names) == "IOB1"
    assert scheme_of([["I-X", "O"]], names[:1] + names[2:]) == "IOB1"
    assert scheme_of([["O"]], names) is None
    with pytest.raises(UserError, match="L and U are of BILOU, and S of IOBES"):
        scheme_of([], ["O", "B-X", "L-X", "S-X"])


def test_a_metric_is_a_module_of_evaluate() -> None:
    import evaluate

    module = as_evaluate("pearson")
    assert isinstance(module, evaluate.Metric)
    assert module.compute(predictions=[1.0, 2.0, 4.0], references=[1.0, 2.0, 3.0]) == {
        "pearson": pytest.approx(value("pearson", [1.0, 2.0, 4.0], [1.0, 2.0, 3.0]))
    }
    texts = as_evaluate("token_f1").compute(predictions=["in Rome"], references=[["Rome"]])
    assert texts == {"token_f1": pytest.approx(2 / 3)}


EVALUATE_MODULE = """
import datasets
import evaluate

class Mae(evaluate.Metric):
    def _info(self):
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions, references):
        errors = [abs(a - b) for a, b in zip(predictions, references)]
        return {"mae": sum(errors) / len(errors), "largest": max(errors)}
"""


def test_a_metric_of_evaluate_is_a_metric_of_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path / "modules"))
    file = tmp_path / "mae.py"
    file.write_text(EVALUATE_MODULE)
    found = score([f"evaluate:{file}", f"evaluate:{file}:largest:higher"], [1.0, 2.0], [2.0, 5.0])
    assert found[f"evaluate:{file}"] == {"value": 2.0, "higher_is_better": False}
    assert found[f"evaluate:{file}:largest:higher"] == {"value": 3.0, "higher_is_better": True}
    with pytest.raises(ValueError, match="it has the values mae, largest; use evaluate:"):
        score([f"evaluate:{file}:smallest"], [1.0, 2.0], [2.0, 5.0])


def test_a_metric_of_evaluate_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"task.metrics=\[evaluate:no_such_metric\]: .* the Hub or its cache"):
        score(["evaluate:no_such_metric"], [1.0], [1.0])


def test_every_metric_has_a_summary_a_range_and_an_input() -> None:
    for name, metric in METRICS.items():
        assert metric.summary and metric.range[0] < metric.range[1] and metric.input, name
