"""Turn the model that a run began with into what it says of pairs of answers: the reference of their rewards."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from peftkit import training
from peftkit.config import RunConfig
from peftkit.config.source import Source
from peftkit.data.formats import Encoded, format_of
from peftkit.data.formats.preferences import REFERENCE_COLUMNS
from peftkit.models.load import load_model, load_tokenizer
from peftkit.results.console import log
from peftkit.training.outputs import OutputReader


@dataclass(frozen=True)
class Reference:
    """Log-likelihoods (pairs, 2) of chosen and rejected answers, by the names of their rows; none for other kinds."""

    likelihoods: dict[str, np.ndarray] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)

    def beside(self, name: str, encoded: Encoded) -> Encoded:
        """Return encoded rows with what the reference says of them."""
        if name not in self.likelihoods:
            return encoded
        rows = encoded.inputs
        for column, values in zip(REFERENCE_COLUMNS, self.likelihoods[name].T, strict=True):
            rows = rows.add_column(column, values.tolist())
        return replace(encoded, inputs=rows)


def score_reference(
    config: RunConfig, source: Source, tables: Mapping[str, Dataset | None], words: Source | None = None
) -> Reference:
    """Ask the base of a run that learns from preferences, before any method is applied, in the run's precision.

    It is in memory for this one pass alone. A method that is switched off would say the same; a model whose own weights
    train has no other way back. A run of another kind has no reference, and nothing is loaded. `words` is where the
    tokenizer is, else with the base.
    """
    if config.task.kind != "preferences":
        return Reference()
    log(f"   the reference, {source.name}, is asked about every pair")
    tokenizer = load_tokenizer(words or source)
    task_format = format_of(config.task, config.model.family, None, tokenizer)
    model: Any = load_model(config.model, source, tokenizer, config.task.kind, None, config.method.quantization).eval()
    if config.method.quantization is None and torch.accelerator.is_available():  # a quantised base lies there already
        model.to(torch.accelerator.current_accelerator())
    started = time.perf_counter()
    encoded = {name: task_format.encode(table) for name, table in tables.items() if table is not None}
    size = config.train["per_device_eval_batch_size"]
    precision = training.precision_of(config.train)
    found = {name: _likelihoods(model, each, task_format.collator(), size, precision) for name, each in encoded.items()}
    return Reference(found, {"reference_seconds": time.perf_counter() - started})


def final_states(model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    """Run a batch to its last states alone, for what TRL keeps of it: its head goes over them a chunk at a time."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]  # type: ignore[no-any-return]


@torch.no_grad()
def _likelihoods(model: Any, encoded: Encoded, collate: Any, size: int, precision: str) -> np.ndarray:
    """Return (pairs, 2), from the batches that `train.predict` makes, so that an untrained adapter's are the same."""
    found: np.ndarray = np.zeros((len(encoded.lengths), 2), dtype=np.float32)
    order = np.argsort(-np.asarray(encoded.lengths), kind="stable")
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        batch = collate([encoded.inputs[int(row)] for row in rows])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        with torch.autocast(model.device.type, kind, enabled=kind is not None):
            found[rows] = OutputReader("preferences")(model, batch).float().cpu().numpy()
    return found
