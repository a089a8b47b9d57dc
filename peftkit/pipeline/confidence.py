"""Confidence of a classifier's predictions, and those left to a person because it is low."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Value

from peftkit.config import RunConfig, UserError, kind_of, label_columns, refusal
from peftkit.config.console import log
from peftkit.data.datasets import example_reader
from peftkit.data.formats.multilabel import chosen_labels, label_set
from peftkit.metrics.calibration import Threshold, probabilities, threshold_at, thresholds
from peftkit.pipeline.calibration import CALIBRATION_FILE, read_scores
from peftkit.results.run_result import RunResult

PREFIX = "probability_"  # of the column of a label


def has_confidence(run: RunResult) -> bool:
    """Return whether each label of a run has a probability."""
    return kind_of(run.config.task).has_label_probabilities


def new_columns(run: RunResult) -> list[str]:
    """Return the names of the columns that predictions of a run add to a table."""
    names = [f"{PREFIX}{name}" for name in run.label_names or ()]
    return ["prediction", "scores", *(["confidence", "suggestion", *names] if has_confidence(run) else [])]


def with_confidence(
    table: Dataset, runs: Sequence[RunResult], threshold: float | None, names: Sequence[str] | None = None
) -> Dataset:
    """Return a table of predictions and scores with the confidence of each row, None for a run of numbers.

    Predictions below the threshold are empty, and a column `suggestion` has all of them.

    Args:
        runs: of each row.
        names: of the labels, whose probabilities get a column each; None where the rows are of several runs.
    """
    distinct = {id(run): run for run in runs}.values()
    if not any(map(has_confidence, distinct)):
        return table
    for run in distinct:
        log_uncalibrated(run)
    scores = table["scores"][:]
    rows: list[list[float]] = [[] for _ in scores]  # empty without probabilities
    confidences: list[float | None] = [None] * len(scores)
    for run in filter(has_confidence, distinct):
        known = [row for row, each in enumerate(runs) if each is run and scores[row] is not None]
        chosen = np.array([scores[row] for row in known], float).reshape(len(known), -1)
        for row, each, confidence in zip(known, *label_probabilities(run, chosen), strict=True):
            rows[row], confidences[row] = each, confidence
    columns: dict[str, list[float | None]] = {"confidence": confidences}
    for number, name in enumerate(names or ()):
        columns[f"{PREFIX}{name}"] = [row[number] if row else None for row in rows]
    for column, values in columns.items():
        table = table.add_column(column, values, feature=Value("float64"))
    return table if threshold is None else _abstain(table, threshold)


def label_probabilities(run: RunResult, scores: np.ndarray) -> tuple[list[list[float]], list[float]]:
    """Return the calibrated probabilities (rows, labels) of scores, and the confidence of each row."""
    found = _probabilities(run, scores)
    return found.tolist(), [float(each) for each in _confidences(run, scores, found)]


def _probabilities(run: RunResult, scores: np.ndarray) -> np.ndarray:
    """Return the calibrated probabilities (rows, labels) of scores."""
    return probabilities(scores, run.temperature, kind_of(run.config.task).several_labels)


def _confidences(run: RunResult, scores: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the confidence of each row: the probability of its label.

    Of several labels it is that of the label about which the run is least sure: of being present where it is predicted,
    of being absent where it is not. The probability that all labels are right is at most that.
    """
    if not kind_of(run.config.task).several_labels:
        return np.max(found, axis=-1, initial=0)
    return np.min(np.where(chosen_labels(scores, run.score_thresholds), found, 1 - found), axis=-1, initial=1)


def log_uncalibrated(run: RunResult) -> None:
    """Log that the confidences of a run are not calibrated, where they are not."""
    if has_confidence(run) and not run.record.get("calibration"):
        log(
            f"{run.folder} is not calibrated: its confidence is usually higher than its accuracy; "
            "train with calibration.holdout=0.1"
        )


def choose_threshold(config: RunConfig, run: RunResult | None, name: str | None = None) -> float | None:
    """Return the confidence below which predictions are left to a person, None where all are answered.

    What to expect of it is logged, where held-out examples of the run give it.

    Args:
        run: None for several runs.
        name: of the run in what is logged, where there are others.

    Raises:
        UserError: no threshold reaches `predict.target_accuracy` on the held-out examples.
    """
    target = config.predict.target_accuracy
    is_calibrated = run is not None and bool(run.record.get("calibration"))
    if run is not None and not has_confidence(run):
        return None
    if run is None or not is_calibrated or (target is None and config.predict.abstain is None):
        return config.predict.abstain
    confidences, is_right = _held_out(run)
    if target is None:
        assert config.predict.abstain is not None
        _log_expected(threshold_at(config.predict.abstain, confidences, is_right), name)
        return config.predict.abstain
    known = thresholds(confidences, is_right)
    chosen = next((each for each in known if each.accuracy >= target), None)
    if chosen is None:
        best = max(each.accuracy for each in known)
        of = f"{name}: " if name else ""
        wrong = (
            f"{of}predict.target_accuracy={target:g}: no threshold reaches it on the {len(is_right)} held-out examples"
        )
        reached = np.floor(best * 1000) / 1000
        raise UserError(
            refusal(wrong, f"predict.target_accuracy={reached:g}" if reached else "~predict.target_accuracy")
        )
    _log_expected(chosen, name)
    return chosen.confidence


def log_coverage(table: Dataset, prepared: Dataset, run: RunResult | None, place: str) -> None:
    """Log how many rows are answered, and how many of the answers are right where the table has labels.

    Args:
        prepared: the same rows with the columns of `prepare_table`.
        run: None for several runs, whose labels are not read.
    """
    predicted = [row for row, confidence in enumerate(table["confidence"][:]) if confidence is not None]
    given = table["prediction"][:]
    answered = [row for row in predicted if given[row] is not None]
    if not predicted:
        return
    text = (
        f"{len(answered)} of {len(predicted)} answered (coverage {len(answered) / len(predicted):.1%}), "
        f"{len(predicted) - len(answered)} left to a person"
    )
    labels = None if run is None else _labels(prepared, run, place)
    for name, column, rows in (("answered", given, answered), ("all", table["suggestion"][:], predicted)):
        known = [row for row in rows if labels is not None and labels[row] is not None]
        if labels is not None and known:
            right = sum(column[row] == labels[row] for row in known)
            text += f"; accuracy of {name} {right / len(known):.3f} ({right} of {len(known)} with a label)"
    log(text)


def _abstain(table: Dataset, threshold: float) -> Dataset:
    suggestions, confidences = table["prediction"][:], table["confidence"][:]
    given = [
        None if confidence is not None and confidence < threshold else suggestion
        for suggestion, confidence in zip(suggestions, confidences, strict=True)
    ]
    names, feature = table.column_names, table.features["prediction"]
    changed = table.remove_columns("prediction").add_column("prediction", given, feature=feature)
    return changed.select_columns(names).add_column("suggestion", suggestions, feature=feature)


def _labels(prepared: Dataset, run: RunResult, place: str) -> list[Any] | None:
    """Return each row's label as predictions name it, None where it is missing or unknown; None without any."""
    task, names = run.config.task, run.label_names or []
    if not {*label_columns(task)} & {*prepared.column_names}:
        return None
    reader = example_reader(task)
    try:
        raw = reader.raw_labels(prepared, place)
        parse = reader.label_parser(prepared, names, place)
    except UserError as error:
        log(f"no accuracy, the labels cannot be read: {error}")
        return None
    found: list[Any] = []
    describe = partial(label_set, task, names) if kind_of(task).several_labels else names.__getitem__
    for label in raw:
        try:
            found.append(None if label is None else describe(parse(label)))
        except UserError:  # a label that the run does not know
            found.append(None)
    if unknown := sum(label is not None and name is None for label, name in zip(raw, found, strict=True)):
        log(f"{unknown} labels of column {task.label} are unknown to the run and not counted")
    return found


def _held_out(run: RunResult) -> tuple[np.ndarray, np.ndarray]:
    """Return confidence and correctness of the examples that a run held out for its calibration."""
    file: Path = run.folder / CALIBRATION_FILE
    try:
        _, scores, labels = read_scores(file)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} cannot be read ({error}); train the run again with force=true") from error
    is_right = (
        scores.argmax(-1) == labels
        if labels.ndim == 1
        else (chosen_labels(scores, run.score_thresholds) == labels).all(-1)
    )
    return _confidences(run, scores, _probabilities(run, scores)), is_right


def _log_expected(found: Threshold, name: str | None) -> None:
    of = f"{name}: " if name else ""
    text = (
        f"{of}threshold {found.confidence:.4g}: of {found.examples} held-out training examples it answers "
        f"{found.answered}"
    )
    if found.answered:
        low, high = found.interval
        text += f" ({found.coverage:.1%}), {found.accuracy:.1%} of them right (95 % interval {low:.1%} to {high:.1%})"
    log(text)
