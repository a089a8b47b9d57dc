"""Temperature scaling of a trained classifier and thresholds of labels, on training examples that were held out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from peftkit.config import kind_of
from peftkit.config.console import is_main_process, log
from peftkit.config.suggestions import listed
from peftkit.data.datasets import CALIBRATION_SPLIT
from peftkit.data.formats import Encoded
from peftkit.leaderboard.paired import label_indicators
from peftkit.metrics import score, split_suffix
from peftkit.metrics.calibration import (
    DEFAULT_THRESHOLD,
    TEMPERATURES,
    as_choices,
    calibration_quality,
    f1_threshold,
    fit_temperature,
    probabilities,
    score_thresholds,
)
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import evaluate_splits
from peftkit.pipeline.examples import RunContext
from peftkit.results.run_folder import write_predictions

CALIBRATION_FILE = "calibration.parquet"  # of a run folder, with the columns of predictions.parquet


def calibrate(context: RunContext, bundle: TrainingBundle, trainer: Any, held_out: Encoded) -> None:
    """Write the scores of the held-out examples; record the temperature, and thresholds of labels, with their effect.

    The scores of the validation splits have been written before. Only the main process has a record; with thresholds,
    the predictions and scores are those at the thresholds.
    """
    file, predictions, config = (
        context.folder / CALIBRATION_FILE,
        context.folder / "predictions.parquet",
        context.config,
    )
    metric = "subset_accuracy" if kind_of(config.task).several_labels else "accuracy"  # others may need every class
    config = replace(config, task=replace(config.task, metrics=[metric]))
    evaluate_splits(config, bundle, trainer, {CALIBRATION_SPLIT: held_out}, context.dataset, file)
    if not is_main_process():
        return
    _, scores, labels = read_scores(file)
    temperature = fit_temperature(*as_choices(scores, labels))
    record = {"temperature": temperature, **_effect(scores, labels, temperature), "validation": {}}
    splits, found, known = read_scores(predictions)
    for name in dict.fromkeys(splits.tolist()):
        record["validation"][name] = _effect(found[splits == name], known[splits == name], temperature)
    for each in (file, predictions):
        scale_probabilities(each, temperature)
    context.result["calibration"] = record
    _log_temperature(record)
    if config.calibration.thresholds:
        chosen = _fit_thresholds(scores, labels, temperature, bundle.format.names or [])
        bundle.format = replace(bundle.format, score_thresholds=score_thresholds([*chosen.values()], temperature))
        for each in (file, predictions):
            _predict_again(each, bundle.format)
        after = score_file(predictions, context.config.task.metrics, bundle.format)
        record |= {"thresholds": chosen, "scores": compare_scores(context.result["scores"], after)}
        context.result["scores"] = after


def scale_probabilities(file: Path, temperature: float) -> None:
    """Replace the probabilities in a file of predictions by those at a temperature."""
    columns = _columns(file)
    found = probabilities(_scores(columns), temperature, several_labels=_has_label_sets(columns))
    write_predictions(file, columns | {"probabilities": list(found)})


def read_scores(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return split (examples,), scores (examples, classes) and label of the examples with a label.

    A label is an id; of several labels it is 0 or 1 for each (examples, classes).
    """
    import pyarrow.parquet as pq

    table = pq.read_table(file, columns=["split", "scores", "label"])
    table = table.filter(table["label"].is_valid())
    columns = dict(zip(table.column_names, table.columns, strict=True))
    labels, scores = columns["label"].to_numpy(), np.array(columns["scores"].to_pylist(), float)
    if _has_label_sets(columns):
        labels = label_indicators(labels, scores.shape[1]).astype(int)
    return columns["split"].to_numpy(), scores, labels


def score_file(file: Path, metrics: Sequence[str], task_format: Any) -> dict[str, Any]:
    """Return the scores of the labels that a format predicts by a file, named as by `evaluate_splits`."""
    splits, scores, labels = read_scores(file)
    found: dict[str, Any] = {}
    names = dict.fromkeys(splits.tolist())
    for split in names:
        rows, suffix = splits == split, split_suffix(split, names)
        predictions, others = task_format.choose(scores[rows]), {"label_scores": (labels[rows], scores[rows])}
        found |= score(list(metrics), predictions, labels[rows], suffix, task_format.names, others=others)
    return found


def compare_scores(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return and log the scores of the default thresholds and of fitted ones."""
    found = {name: {"before": each["value"], "after": after[name]["value"]} for name, each in before.items()}
    changes = ", ".join(f"{name} {each['before']:.3f} -> {each['after']:.3f}" for name, each in found.items())
    log(f"   with every label predicted from {DEFAULT_THRESHOLD} -> from its threshold: {changes}")
    return found


def _predict_again(file: Path, task_format: Any) -> None:
    """Replace the predictions in a file of predictions by those of a format."""
    columns = _columns(file)
    found = task_format.choose(_scores(columns))
    names = [task_format.describe(each) for each in found]
    write_predictions(file, columns | {"prediction": task_format.recorded(found), "prediction_name": names})


def _columns(file: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    return dict(zip(table.column_names, table.columns, strict=True))


def _scores(columns: Mapping[str, Any]) -> np.ndarray:
    return np.stack(columns["scores"].to_numpy())


def _has_label_sets(columns: Mapping[str, Any]) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(columns["label"].type))


def _fit_thresholds(
    scores: np.ndarray, labels: np.ndarray, temperature: float, names: Sequence[str]
) -> dict[str, float]:
    """Return the threshold of the calibrated probability of each label, for the highest F1 on the held-out examples."""
    columns = zip(probabilities(scores, temperature, several_labels=True).T, labels.T, strict=True)
    found = dict(zip(names, (f1_threshold(*each) for each in columns), strict=True))
    if absent := [name for name, count in zip(names, labels.sum(0).tolist(), strict=True) if not count]:
        log(
            f"!! no held-out example has the label {listed(absent)}: its threshold stays {DEFAULT_THRESHOLD}; "
            "raise calibration.holdout"
        )
    log(f"   thresholds: {listed(f'{name} {threshold:.3g}' for name, threshold in found.items())}")
    return found


def _effect(scores: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, Any]:
    """Return the number of examples, and their likelihood and calibration error before and after scaling."""
    choices = as_choices(scores, labels)
    before, after = (calibration_quality(*choices, each) for each in (1.0, temperature))
    return {
        "examples": len(labels),
        "nll": {"before": before.nll, "after": after.nll},
        "ece": {"before": before.ece, "after": after.ece},
    }


def _log_temperature(record: Mapping[str, Any]) -> None:
    temperature, examples = record["temperature"], record["examples"]
    if temperature == 1:
        log(f"!! all {examples} held-out examples are answered correctly, so no temperature can be fitted: it stays 1")
        return
    changes = {f"{examples} held-out examples": record, **record["validation"]}
    text = ", ".join(
        f"{name} {each['ece']['before']:.3f} -> {each['ece']['after']:.3f}" for name, each in changes.items()
    )
    log(f"   temperature {temperature:.3g}; expected calibration error: {text}")
    if temperature > 0.99 * TEMPERATURES[1]:
        log(f"!! the scores do not predict the labels of the {examples} held-out examples; more training is needed")
