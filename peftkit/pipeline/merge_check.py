"""Check of merging over a quantized base: how far the merged checkpoint's predictions differ from the run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftkit import training
from peftkit.config import RunConfig, is_prompted
from peftkit.data.formats import Encoded, Predictions
from peftkit.methods import count_parameters, is_mergeable, merge
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.inference import load_bundle
from peftkit.pipeline.trainers import predictor
from peftkit.results.console import log
from peftkit.results.model_card import describe_merge
from peftkit.results.run_result import RunResult

ROWS = 200


def check_merge(config: RunConfig, bundle: TrainingBundle, table: Any, folder: Path) -> dict[str, Any] | None:
    """Compare, on a split's first examples, the trained model with its merged checkpoint; None where it cannot merge.

    The adapter was trained over weights rounded to 4 or 8 bits, and is merged into their dequantized values, so only
    the arithmetic differs. A base too large to load in full precision gives a reason instead. All processes of a
    distributed run call this together.
    """
    if config.method.quantization is None or is_prompted(config) or not is_mergeable(bundle.model):
        return None
    try:
        found = _compare(config, bundle, table.select(range(min(ROWS, len(table)))), folder)
    except (torch.OutOfMemoryError, MemoryError) as error:
        found = {"rows": 0, "reason": (str(error) or "no memory").splitlines()[0]}
    log(f"   {describe_merge(found)}")
    return found


def _compare(config: RunConfig, bundle: TrainingBundle, rows: Any, folder: Path) -> dict[str, Any]:
    encoded = bundle.format.encode(rows)
    trained = _answers(config, bundle, encoded)
    _check_memory(5 * count_parameters(bundle.model).total)
    whole = load_bundle(RunResult(folder), quantized=False)
    whole.model = merge(whole.model)
    merged = _answers(config, whole, encoded)
    moved = np.concatenate(
        [np.ravel(np.abs(after - before)) for before, after in zip(trained.scores, merged.scores, strict=True)]
    )
    changed = None
    if bundle.format.output_kind == "spans" or bundle.format.names is not None:  # else a prediction is a number
        pairs = zip(trained.predictions, merged.predictions, strict=True)
        changed = sum(not np.array_equal(before, after) for before, after in pairs)
    return {
        "rows": len(rows),
        "max_difference": float(np.nanmax(moved)),
        "mean_difference": float(np.nanmean(moved)),
        "changed_predictions": changed,
        "dtype": str(whole.model.dtype).removeprefix("torch."),
    }


def _answers(config: RunConfig, bundle: TrainingBundle, encoded: Encoded) -> Predictions:
    """Return a model's predictions for encoded examples, in the precision of the run; no text is generated."""
    with predictor(config, bundle) as trainer:
        scores = training.predict(trainer, encoded.inputs, encoded.lengths).scores
    return bundle.format.decode(bundle.format.unpad(scores, encoded), encoded)


def _check_memory(needed: int) -> None:
    """Refuse to load what does not fit, before the kernel kills the trained run. Only Linux reports free memory.

    Raises:
        MemoryError: the weights do not fit.
    """
    file = Path("/proc/meminfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), needed)
    if free < needed:
        raise MemoryError(f"the whole base takes {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free")
