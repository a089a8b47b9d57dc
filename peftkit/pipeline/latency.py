"""Turn a trained model into the time that one row costs, as it was trained and merged into its base."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from peft import PeftModel

from peftkit.config import RunConfig
from peftkit.data.formats import Encoded
from peftkit.methods import is_mergeable, merge
from peftkit.pipeline.build import TrainingBundle, predictor

ROWS, WARM = 32, 3


def measure_latency(run: RunConfig, parts: TrainingBundle, encoded: Encoded) -> dict[str, float | None]:
    """Return milliseconds a row, one at a time: the median over the first rows of a split, in the run's precision.

    The model is merged for the second figure and stays so; None where there is nothing to merge, the method does not
    merge, or its base is quantised.
    """
    found: dict[str, float | None] = {"latency_ms": _milliseconds(run, parts, encoded), "merged_latency_ms": None}
    if isinstance(parts.model, PeftModel) and is_mergeable(parts.model) and run.method.quantization is None:
        parts.model = merge(parts.model)
        found["merged_latency_ms"] = _milliseconds(run, parts, encoded)
    return found


def _milliseconds(run: RunConfig, parts: TrainingBundle, encoded: Encoded) -> float:
    rows = [encoded.inputs[row] for row in range(min(ROWS, len(encoded.inputs)))]
    spent = []
    with predictor(run, parts) as trainer:
        model = trainer.model.eval()
        for row in rows[:WARM] + rows:
            inputs: Any = trainer.prepare_inputs(parts.format.collator()([row]))
            started = time.perf_counter()
            with torch.no_grad(), trainer.compute_loss_context_manager():
                trainer.reader(model, inputs).float().cpu()  # to the CPU: a GPU has then done its work
            spent.append(1000 * (time.perf_counter() - started))
    return median(spent[len(rows[:WARM]) :])
