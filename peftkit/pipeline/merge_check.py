"""Turn a run trained over a quantised base into how far its merged checkpoint answers otherwise than it."""

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
from peftkit.pipeline.trainers import predictor
from peftkit.results.console import log
from peftkit.results.model_card import describe_merge

ROWS = 200


def check_merge(config: RunConfig, bundle: TrainingBundle, table: Any, folder: Path) -> dict[str, Any] | None:
    """Compare, on a split's first rows, the trained model with what job=merge writes; None where it writes none.

    The adapter learnt beside weights that were rounded to 4 or 8 bits, and is merged into what these stand for, in full
    precision; what differs then is how both compute. A base too large to load whole leaves a reason. All processes of
    a distributed run call this together.
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
    from peftkit.pipeline.inference import load_bundle

    encoded = bundle.format.encode(rows)
    told = _answers(config, bundle, encoded)
    _check_memory(5 * count_parameters(bundle.model).total)
    whole = load_bundle(config, folder, quantized=False)
    whole.model = merge(whole.model)
    again = _answers(config, whole, encoded)
    moved = np.concatenate(
        [np.ravel(np.abs(after - before)) for before, after in zip(told.scores, again.scores, strict=True)]
    )
    changed = None
    if bundle.format.output_kind == "spans" or bundle.format.names is not None:  # else a prediction is a number
        pairs = zip(told.predictions, again.predictions, strict=True)
        changed = sum(not np.array_equal(before, after) for before, after in pairs)
    return {
        "rows": len(rows),
        "max_difference": float(np.nanmax(moved)),
        "mean_difference": float(np.nanmean(moved)),
        "changed_predictions": changed,
        "dtype": str(whole.model.dtype).removeprefix("torch."),
    }


def _answers(config: RunConfig, bundle: TrainingBundle, encoded: Encoded) -> Predictions:
    """Return what a model says of encoded rows, in the precision of the run; no text is written."""
    with predictor(config, bundle) as trainer:
        scores = training.predict(trainer, encoded.inputs, encoded.lengths).scores
    return bundle.format.decode(bundle.format.unpad(scores, encoded), encoded)


def _check_memory(needed: int) -> None:
    """Stop before the system would kill a run that has been trained, where it says what it has left (Linux).

    Raises:
        MemoryError: the weights do not fit.
    """
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), needed)
    if free < needed:
        raise MemoryError(f"the whole base takes {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free")
