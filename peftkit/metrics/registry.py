"""The record of a metric, and the decorator that makes one of a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
# How often each resample has each example (resamples, examples), to scores (resamples, runs)
Scorer = Callable[[Array], Array]

LISTS = ("tags", "tag_names", "texts")  # inputs that have a list or a text for each example
RECORDED = ("classes", "numbers", "tags", "ranks", "margins", "bytes")  # inputs that predictions.parquet has
METRICS: dict[str, Metric] = {}


@dataclass(frozen=True)
class Metric:
    """A function of labels (examples,) and the predictions of several runs (runs, examples), which returns a Scorer.

    `input` is what the labels and predictions are:

    classes: class ids. numbers: numbers. tags: a list of tag ids for each example, -1 for none.
    tag_names: the same by name, `NO_TAG` for none. texts: a list of references, and a text.
    likelihoods: counts of tokens, and nats. bytes: counts of bytes, and bits for each of them.
    format: 1s, and 1 where an answer has the format of its references. ranks: 1s, and ranks of the right document.
    margins: 0s, and implicit rewards of the chosen less the rejected answer.

    `diagnostic` metrics are reported beside a task's score and are no part of it.
    """

    name: str
    summary: str
    function: Callable[[Any, Any], Scorer]
    input: str
    range: tuple[float, float]
    higher_is_better: bool
    diagnostic: bool

    def score(self, labels: Any, predictions: Any) -> float:
        """Return the score of one run."""
        is_list = self.input in LISTS
        scorer = self.function(*((labels, [predictions]) if is_list else (np.asarray(labels), np.array([predictions]))))
        return float(scorer(np.ones((1, len(labels))))[0, 0])


def metric(
    input: str, range: tuple[float, float] = (0, 1), higher_is_better: bool = True, diagnostic: bool = False
) -> Callable[[Callable[[Any, Any], Scorer]], Callable[[Any, Any], Scorer]]:
    """Register a function as the metric of its name; see `Metric`."""

    def register(function: Callable[[Any, Any], Scorer]) -> Callable[[Any, Any], Scorer]:
        name = function.__name__
        assert name not in METRICS, f"two metrics are named {name}"
        METRICS[name] = Metric(name, function.__doc__ or "", function, input, range, higher_is_better, diagnostic)
        return function

    return register


def mean(values: Array) -> Scorer:
    """Return the scorer of each run's mean of values (runs, examples)."""
    return lambda weights: divide(weights @ np.asarray(values, float).T, weights.sum(1, keepdims=True))


def ratio(parts: Array, wholes: Array) -> Scorer:
    """Return the scorer of the sum of parts (runs, examples) over the sum of wholes (examples,) or (runs, examples)."""
    return lambda weights: divide(weights @ parts.T, weights @ np.atleast_2d(wholes).T)


def divide(part: Array, whole: Array, otherwise: float = 0.0) -> Array:
    """Return part / whole, and `otherwise` where the whole is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, otherwise), where=whole > 0)
