"""Temperatures, thresholds and folds of whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import commands

from peftkit.metrics.calibration import calibration_quality, fit_temperature

Overrides = Callable[..., list[str]]


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def scores_of(file: Path) -> tuple[np.ndarray, np.ndarray]:
    table = pq.read_table(file)
    return np.array(table["scores"].to_pylist()), np.array(table["label"].to_pylist())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "method"), [("bert", "lora"), ("gpt2", "lora"), ("t5", "lora"), ("gpt2", "zero_shot")]
)
def test_a_temperature_is_fitted_on_held_out_examples_alone(tiny: Overrides, model: str, method: str) -> None:
    overrides = tiny(model, "task=sst2", f"method={method}", "task.max_train_samples=60", "calibration.holdout=0.25")
    (folder,) = commands.finetune(*overrides)
    record = record_of(folder)
    assert record["audit"]["rows"] == {"train": 45, "calibration_holdout": 15, "validation": 24}
    found, (held, labels) = record["calibration"], scores_of(folder / "calibration.parquet")
    assert found["temperature"] == pytest.approx(fit_temperature(held, labels)) and found["examples"] == 15
    for entry, (scores, known) in {
        "held out": (found, (held, labels)),
        "validation": (found["validation"]["validation"], scores_of(folder / "predictions.parquet")),
    }.values():
        for stage, temperature in {"before": 1.0, "after": found["temperature"]}.items():
            quality = calibration_quality(scores, known, temperature)
            assert (entry["nll"][stage], entry["ece"][stage]) == (
                pytest.approx(quality.nll),
                pytest.approx(quality.ece),
            )
