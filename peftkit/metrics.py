"""Turn predictions and labels into scores: `evaluate.Metric`s that live here and ask no network."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics


class _Score(evaluate.Metric):
    """A metric over one number a row; `higher_is_better` gives its direction."""

    higher_is_better = True
    kind = "int64"

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(self.__doc__ or "").strip(),
            citation="",
            inputs_description="predictions and references, one number a row",
            features=datasets.Features(
                {"predictions": datasets.Value(self.kind), "references": datasets.Value(self.kind)}
            ),
        )

    def _compute(self, predictions: Sequence, references: Sequence) -> dict[str, float]:  # type: ignore[override]
        return {str(self.config_name): float(self.of(np.asarray(references), np.asarray(predictions)))}

    def of(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        raise NotImplementedError(self.name)


class Accuracy(_Score):
    """Share of rows that are right."""

    def of(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        return sklearn_metrics.accuracy_score(labels, predictions)


class F1(_Score):
    """F1 of class 1, as GLUE reports for MRPC and QQP; the mean over classes where there are more than two."""

    def of(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        if not set(np.unique(labels)) | set(np.unique(predictions)) <= {0, 1}:
            return sklearn_metrics.f1_score(labels, predictions, average="macro", zero_division=0)
        return sklearn_metrics.f1_score(labels == 1, predictions == 1, zero_division=0)


class MacroF1(_Score):
    """Mean over classes of each class's F1."""

    def of(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        return sklearn_metrics.f1_score(labels, predictions, average="macro", zero_division=0)


class MatthewsCorrelation(_Score):
    """Matthews correlation, as GLUE reports for CoLA and AX; 0 where all predictions are one class."""

    def of(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
            return 0.0
        return sklearn_metrics.matthews_corrcoef(labels, predictions)


class Pearson(_Score):
    """Pearson correlation; 0 where all predictions are one number, for which it is not defined."""

    kind = "float64"

    def of(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        return _correlation(stats.pearsonr, labels, predictions)


class Spearman(_Score):
    """Spearman rank correlation; 0 where all predictions are one number, for which it is not defined."""

    kind = "float64"

    def of(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        return _correlation(stats.spearmanr, labels, predictions)


class MeanSquaredError(_Score):
    """Mean of the squared differences, in the label's unit squared."""

    kind = "float64"
    higher_is_better = False

    def of(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        return sklearn_metrics.mean_squared_error(labels, predictions)


METRICS: dict[str, type[_Score]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "macro_f1": MacroF1,
    "matthews_correlation": MatthewsCorrelation,
    "pearson": Pearson,
    "spearman": Spearman,
    "mean_squared_error": MeanSquaredError,
}


def score(names: Sequence[str], predictions: Any, labels: Any, suffix: str = "") -> dict[str, dict[str, Any]]:
    """Return {metric: {value, higher_is_better}}; `suffix` tells apart the splits of one task (accuracy_matched).

    Args:
        predictions: (rows,) class ids or numbers.
        labels: (rows,), of the same kind.

    Raises:
        ValueError: there is no metric of that name, no rows, or a prediction that is no number (training diverged).
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if len(labels) == 0:
        raise ValueError("there are no rows to score; the split is empty")
    if not np.all(np.isfinite(predictions)):
        raise ValueError("a prediction is no finite number: training diverged; try a smaller train.learning_rate=")
    scores = {}
    for name in names:
        if name not in METRICS:
            close = get_close_matches(name, METRICS, n=1) or list(METRICS)
            raise ValueError(f"there is no metric {name}; did you mean {', '.join(close)}?")
        # evaluate makes a folder for every metric, also in memory: not in a home that may be read-only
        with tempfile.TemporaryDirectory() as scratch:
            metric = METRICS[name](config_name=name, keep_in_memory=True, cache_dir=scratch)
            value = metric.compute(predictions=predictions, references=labels)[name]
        scores[name + suffix] = {"value": value, "higher_is_better": metric.higher_is_better}
    return scores


def _correlation(of: Callable[..., Any], labels: np.ndarray, predictions: np.ndarray) -> float:
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(of(labels, predictions).statistic)
