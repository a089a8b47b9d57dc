"""Temperature scaling of a trained classifier, on training examples that were held out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from peftkit.config.console import is_main_process, log
from peftkit.data.datasets import CALIBRATION_SPLIT
from peftkit.data.formats import Encoded
from peftkit.metrics.calibration import TEMPERATURES, calibration_quality, fit_temperature, probabilities
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import evaluate_splits
from peftkit.pipeline.examples import RunContext
from peftkit.results.run_folder import write_predictions

CALIBRATION_FILE = "calibration.parquet"  # of a run folder, with the columns of predictions.parquet


def calibrate(context: RunContext, bundle: TrainingBundle, trainer: Any, held_out: Encoded) -> dict[str, Any] | None:
    """Write the scores of the held-out examples, and return the temperature with its effect.

    The scores of the validation splits have been written before. Only the main process returns a record.
    """
    file, config = context.folder / CALIBRATION_FILE, context.config
    config = replace(config, task=replace(config.task, metrics=["accuracy"]))  # the task's own may need every class
    evaluate_splits(config, bundle, trainer, {CALIBRATION_SPLIT: held_out}, context.dataset, file)
    if not is_main_process():
        return None
    _, scores, labels = read_scores(file)
    temperature = fit_temperature(scores, labels)
    record = {"temperature": temperature, **_effect(scores, labels, temperature), "validation": {}}
    splits, scores, labels = read_scores(context.folder / "predictions.parquet")
    for name in dict.fromkeys(splits.tolist()):
        chosen = splits == name
        record["validation"][name] = _effect(scores[chosen], labels[chosen], temperature)
    for each in (file, context.folder / "predictions.parquet"):
        scale_probabilities(each, temperature)
    _log_temperature(record)
    return record


def scale_probabilities(file: Path, temperature: float) -> None:
    """Replace the probabilities in a file of predictions by those at a temperature."""
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    scaled = probabilities(np.stack(table["scores"].to_numpy()), temperature)
    write_predictions(file, dict(zip(table.column_names, table.columns, strict=True)) | {"probabilities": list(scaled)})


def read_scores(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return split (examples,), scores (examples, classes) and label (examples,) of the examples with a label."""
    import pyarrow.parquet as pq

    table = pq.read_table(file, columns=["split", "scores", "label"])
    table = table.filter(table["label"].is_valid())
    splits, labels = (np.asarray(table[name]) for name in ("split", "label"))
    return splits, np.array(table["scores"].to_pylist(), float), labels


def _effect(scores: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, Any]:
    """Return the number of examples, and their likelihood and calibration error before and after scaling."""
    before, after = (calibration_quality(scores, labels, each) for each in (1.0, temperature))
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
