"""The record of a metric, the decorator that makes one of a function, and scores of predictions by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np

from peftkit.config.errors import UserError
from peftkit.config.metric_names import EVALUATE
from peftkit.config.own_code import import_own, opened_packages, own_metrics
from peftkit.config.suggestions import nearest

Array = np.ndarray
# How often each resample has each example (resamples, examples), to scores (resamples, runs)
Scorer = Callable[[Array], Array]

LISTS = ("tags", "tag_names", "texts")  # inputs that have a list or a text for each example
ROWS = ("label_sets", "label_scores")  # inputs that have a number of each label for each example
RECORDED = ("classes", "label_sets", "numbers", "tags", "ranks", "margins", "bytes")  # that predictions.parquet has
METRICS: dict[str, Metric] = {}
ROUNDING = 1e-6
SAMPLES: dict[str, tuple[list, list]] = {  # by input: labels and predictions of two examples
    "classes": ([0, 1], [0, 0]), "numbers": ([0.0, 1.0], [0.5, 1.0]), "tags": ([[0, 1], [0]], [[0, 0], [0]]),
    "tag_names": ([["O", "B-X"], ["O"]], [["O", "O"], ["O"]]), "texts": ([["a"], ["b"]], ["a", "c"]),
    "likelihoods": ([1, 2], [0.5, 1.0]), "bytes": ([1, 2], [0.5, 1.0]), "format": ([1, 1], [1, 0]),
    "ranks": ([1, 1], [1, 2]), "margins": ([0.0, 0.0], [0.5, -0.1]),
    "label_sets": ([[0, 1], [1, 1]], [[0, 1], [1, 0]]), "label_scores": ([[0, 1], [1, 1]], [[0.1, 0.5], [0.9, -0.5]]),
}  # fmt: skip
NO_TAG = "-"  # of a word without a prediction
ERRORS = ("mae", "mse", "mape", "smape", "mase", "wer", "cer", "ter", "perplexity", "brier_score")  # of evaluate


@dataclass(frozen=True)
class Metric:
    """A function of labels (examples,) and the predictions of several runs (runs, examples), which returns a Scorer.

    A function with a third parameter `classes` gets the number of the task's classes, whichever of them occur.
    `input` is what the labels and predictions are:

    classes: class ids. label_sets: 0 and 1 for each class (examples, classes). numbers: numbers.
    label_scores: the same labels, and scores of the classes (examples, classes).
    tags: a list of tag ids for each example, -1 for none.
    tag_names: the same by name, `NO_TAG` for none. texts: a list of references, and a text.
    likelihoods: counts of tokens, and nats. bytes: counts of bytes, and bits for each of them.
    format: 1s, and 1 where an answer has the format of its references. ranks: 1s, and ranks of the relevant document.
    margins: 0s, and implicit rewards of the chosen minus the rejected answer.

    `diagnostic` metrics are reported in addition to a task's score, and are not part of it.
    """

    name: str
    summary: str
    function: Callable[..., Scorer]
    input: str
    range: tuple[float, float]
    higher_is_better: bool
    diagnostic: bool

    def scorer(self, labels: Any, predictions: Any, classes: int | None = None) -> Scorer:
        """Return the scorer of several runs; where the number of classes is unknown, it is that of the largest id.

        Raises:
            ValueError: the function does not return a scorer.
        """
        counts = []
        if getattr(labels, "ndim", 1) > 1:  # 0 and 1 for each class
            classes = labels.shape[1]
        if "classes" in signature(self.function).parameters:
            counts = [classes or max(2, 1 + int(np.max([labels.max(), predictions.max()])))]
        found = self.function(labels, predictions, *counts)
        if not callable(found):
            kind = type(found).__name__
            raise ValueError(
                f"the metric {self.name} returned a {kind}; return mean(values), of a value for each example"
            )
        return found

    def score(self, labels: Any, predictions: Any, classes: int | None = None) -> float:
        """Return the score of one run."""
        is_list = self.input in LISTS
        scorer = self.scorer(
            labels if is_list else np.asarray(labels), [predictions] if is_list else np.array([predictions]), classes
        )
        return float(scorer(np.ones((1, len(labels))))[0, 0])


def metric(
    input: str, range: tuple[float, float] = (0, 1), higher_is_better: bool = True, diagnostic: bool = False
) -> Callable[[Callable[..., Scorer]], Callable[..., Scorer]]:
    """Register a function as the metric of its name; see `Metric`."""

    def register(function: Callable[..., Scorer]) -> Callable[..., Scorer]:
        name = function.__name__
        assert name not in METRICS, f"two metrics are named {name}"
        METRICS[name] = Metric(name, function.__doc__ or "", function, input, range, higher_is_better, diagnostic)
        return function

    return register


def mean(values: Array) -> Scorer:
    """Return the scorer of each run's mean of values (runs, examples)."""
    return lambda weights: divide(weights @ np.asarray(values, float).T, weights.sum(1, keepdims=True))


def ratio(numerators: Array, denominators: Array, default: float = 0.0) -> Scorer:
    """Return the scorer of the sum of numerators over the sum of denominators, each (runs, examples) or (examples,)."""
    return lambda weights: divide(weights @ numerators.T, weights @ np.atleast_2d(denominators).T, default)


def divide(numerator: Array, denominator: Array, default: float = 0.0) -> Array:
    """Return numerator / denominator, or `default` where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, default), where=denominator > 0)


def check_own_metrics(names: Sequence[str]) -> None:
    """Compute the metrics of opened packages for two examples, before a run trains for them.

    Raises:
        UserError: one cannot be imported or computed, or is outside of its range.
    """
    import_own_metrics()
    for metric in (METRICS[name] for name in names if name in own_metrics(opened_packages())):
        labels, predictions = SAMPLES[metric.input]
        try:
            _check_range(metric, metric.score(labels, predictions, 2))
        except Exception as error:  # whatever the user's function raises
            text = f"task.metrics=[{metric.name}]: for the labels {labels} and the predictions {predictions}: {error}"
            raise UserError(text) from error


def import_own_metrics() -> None:
    """Register the metrics of opened packages.

    Raises:
        UserError: a module cannot be imported.
    """
    for name, (_, module) in own_metrics(opened_packages()).items():
        if name not in METRICS:
            import_own(module)


def _check_range(metric: Metric, value: float) -> None:
    low, high = metric.range
    if value < low - ROUNDING or value > high + ROUNDING:
        stated = f"range=({low:g}, {high:g})"
        raise ValueError(f"{metric.name} is {value:.4g}, outside of its {stated}; state the right one in @metric")


def split_suffix(split: str, splits: Collection[str]) -> str:
    """Return the end of the names of a split's scores, of several: _matched of validation_matched, _dev of dev."""
    name = split.removeprefix("validation").lstrip("_")
    return f"_{name}" if len(splits) > 1 and name else ""


def score(
    names: Sequence[str],
    predictions: Any,
    labels: Any,
    suffix: str = "",
    label_names: list[str] | None = None,
    likelihoods: tuple[np.ndarray, np.ndarray] | None = None,
    others: Mapping[str, tuple[Any, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return {metric: {value, higher_is_better}} of the metrics of `names`.

    Args:
        names: metrics of METRICS, or `evaluate:NAME[:KEY][:lower|:higher]` for one of Hugging Face's evaluate: KEY is
            the value of its result, of which a lower or a higher one is better.
        predictions: (examples,) class ids, numbers, texts, or lists of the tags' ids, -1 for none.
        labels: (examples,), of the same type; of texts, lists of the correct ones, empty where there is none.
        suffix: of the names in the result, for one of several splits (accuracy_matched).
        label_names: the names of all classes, or of tag ids.
        likelihoods: negative log-likelihoods in nats (examples,) of the labels, and their tokens (examples,).
        others: labels and predictions of metrics with another input than `predictions`, by that input.

    Raises:
        ValueError: a metric is unknown or cannot be loaded, there are no examples or no tokens, or a prediction is NaN
            or infinite.
    """
    if len(labels) == 0 or (likelihoods is not None and not np.sum(likelihoods[1])):
        raise ValueError(f"the split has no {'examples' if likelihoods is None else 'tokens'} to score")
    numbers = predictions if likelihoods is None else [*predictions, *likelihoods[0]]
    if any(isinstance(each, (float, np.floating)) and not np.isfinite(each) for each in numbers):
        raise ValueError("a prediction is NaN or infinite: training diverged; set a lower train.learning_rate")
    scores = {}
    for name in names:
        if name.startswith(EVALUATE):
            value, higher_is_better = _score_by_evaluate(name, predictions, labels)
        else:
            metric = find_metric(name)
            expected, predicted = labels, predictions
            if metric.input == "likelihoods" and likelihoods is not None:
                predicted, expected = likelihoods
            elif others is not None and metric.input in others:
                expected, predicted = others[metric.input]
            elif metric.input == "tag_names":
                expected, predicted = (
                    [[NO_TAG if tag < 0 else (label_names or [])[tag] for tag in tags] for tags in each]
                    for each in (labels, predictions)
                )
            classes = len(label_names) if label_names and metric.input == "classes" else None
            value, higher_is_better = metric.score(expected, predicted, classes), metric.higher_is_better
            _check_range(metric, value)
        scores[name + suffix] = {"value": value, "higher_is_better": higher_is_better}
    return scores


def find_metric(name: str) -> Metric:
    """Return the metric of a name.

    Raises:
        ValueError: the metric is unknown; the message suggests the nearest name.
    """
    import_own_metrics()
    if name not in METRICS:
        raise ValueError(f"task.metrics=[{name}]: unknown metric{nearest(name, METRICS)}")
    return METRICS[name]


def as_evaluate(name: str) -> Any:
    """Return a metric as an `evaluate.Metric`, whose `compute(predictions=, references=)` returns {name: score}."""
    import datasets
    import evaluate

    metric = find_metric(name)
    value = datasets.Value("string" if metric.input in ("texts", "tag_names") else "float64")
    column = datasets.List(value) if metric.input in (*LISTS, *ROWS) else value
    predictions = value if metric.input == "texts" else column

    class Module(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(
                description=metric.summary,
                citation="",
                inputs_description=f"predictions and references, one for each example; {Metric.__doc__}",
                features=datasets.Features({"predictions": predictions, "references": column}),
            )

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:  # type: ignore[override]
            return {name: metric.score(references, predictions)}

    return Module(config_name=name)


def load_of_evaluate(name: str) -> Any:
    """Return the metric `evaluate:NAME...` of Hugging Face's evaluate, from the Hub or its cache.

    Raises:
        OSError, ImportError, ValueError: there is none, or it cannot be loaded.
    """
    import evaluate

    return evaluate.load(name.removeprefix(EVALUATE).partition(":")[0])


def _score_by_evaluate(name: str, predictions: Any, labels: Any) -> tuple[float, bool]:
    """Return the value of a metric of evaluate, and whether a higher one is better."""
    module, *options = name.removeprefix(EVALUATE).split(":")
    short = module.rstrip("/").split("/")[-1].removesuffix(".py")
    higher_is_better = "higher" in options or ("lower" not in options and short not in ERRORS)
    try:
        result = load_of_evaluate(name).compute(predictions=predictions, references=labels) or {}
    except (OSError, ImportError, ValueError) as error:
        raise ValueError(
            f"task.metrics=[{name}]: evaluate cannot load or compute it; it comes from the Hub or its cache: {error}"
        ) from error
    numbers = {key: float(value) for key, value in result.items() if np.ndim(value) == 0}
    keys = [key for key in options if key not in ("lower", "higher")] or [short]
    key = keys[0] if keys[0] in numbers else next(iter(numbers)) if len(numbers) == 1 and keys == [short] else None
    if key is None:
        raise ValueError(f"task.metrics=[{name}]: it has the values {', '.join(numbers)}; use {EVALUATE}{module}:KEY")
    return numbers[key], higher_is_better
