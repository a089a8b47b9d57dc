"""The reference model of preference learning: log-likelihoods of both answers under the base."""

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
    """Log-likelihoods (pairs, 2) of chosen and rejected answers, by split; none for other kinds of task."""

    likelihoods: dict[str, np.ndarray] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)

    def beside(self, name: str, encoded: Encoded) -> Encoded:
        """Return encoded examples with the log-likelihoods of their split."""
        if name not in self.likelihoods:
            return encoded
        rows = encoded.inputs
        for column, values in zip(REFERENCE_COLUMNS, self.likelihoods[name].T, strict=True):
            rows = rows.add_column(column, values.tolist())
        return replace(encoded, inputs=rows)


def score_reference(
    config: RunConfig, source: Source, tables: Mapping[str, Dataset | None], tokenizer_source: Source | None = None
) -> Reference:
    """Score pairs of answers under the base of a run, before any method is applied, in the run's precision.

    The base is in memory for this one pass alone. Disabling an adapter would give the same, but full fine-tuning
    overwrites the base. Other kinds of task than preferences have no reference, and nothing is loaded.

    Args:
        tokenizer_source: None is the base's own.
    """
    if config.task.kind != "preferences":
        return Reference()
    log(f"   scoring every pair by the reference, {source.name}")
    tokenizer = load_tokenizer(tokenizer_source or source)
    task_format = format_of(config.task, config.model.family, None, tokenizer)
    model: Any = load_model(config.model, source, tokenizer, config.task.kind, None, config.method.quantization).eval()
    if config.method.quantization is None and torch.accelerator.is_available():  # a quantized base is there already
        model.to(torch.accelerator.current_accelerator())
    started = time.perf_counter()
    encoded = {name: task_format.encode(table) for name, table in tables.items() if table is not None}
    size = config.train["per_device_eval_batch_size"]
    precision = training.precision_of(config.train)
    found = {name: _likelihoods(model, each, task_format.collator(), size, precision) for name, each in encoded.items()}
    return Reference(found, {"reference_seconds": time.perf_counter() - started})


def final_states(model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    """Return the last hidden states of a batch: TRL applies the head in chunks and stores no more."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]  # type: ignore[no-any-return]


@torch.no_grad()
def _likelihoods(model: Any, encoded: Encoded, collate: Any, size: int, precision: str) -> np.ndarray:
    """Return (pairs, 2), in the batches of `training.predict`, so that an untrained adapter gives the same."""
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
