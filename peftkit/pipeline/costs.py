"""What a run costs: predicted memory, measured latency, and the costs of its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from peftkit.config import RunConfig
from peftkit.data.collate import padding_waste
from peftkit.data.formats import Encoded
from peftkit.methods import is_mergeable, merge
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.train import TrainedRun
from peftkit.pipeline.trainers import predictor

LATENCY_EXAMPLES, WARM_UP = 32, 3
ADAM_STATES = 2  # the two moments that AdamW keeps for each trained weight


@dataclass(frozen=True)
class Memory:
    """Predicted bytes while training; `activations` are measured on one forward pass, the rest is counted."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


Loss = Callable[[nn.Module, Mapping[str, Any]], torch.Tensor]


def predict_memory(model: nn.Module, batch: Mapping[str, Any], bf16: bool, loss: Loss | None = None) -> Memory:
    """Count weights, gradients and AdamW's states, and measure what one forward pass keeps for the backward.

    `loss` is that of a model that has none of its own.
    """
    trained = sum(w.numel() * w.element_size() for w in model.parameters() if w.requires_grad)
    return Memory(
        weights=sum(w.numel() * w.element_size() for w in model.parameters()),
        gradients=trained,
        optimizer=ADAM_STATES * trained,
        activations=activation_bytes(model, batch, bf16, loss),
    )


def activation_bytes(model: nn.Module, batch: Mapping[str, Any], bf16: bool, loss: Loss | None = None) -> int:
    """Return the bytes that autograd saves in a forward pass over this batch, each storage once, weights left out."""
    weights = {w.untyped_storage().data_ptr() for w in model.parameters()}
    saved: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    device = next(model.parameters()).device
    inputs = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
    precision = torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), precision:
        value = model(**inputs).loss if loss is None else loss(model, inputs)
    del value
    return sum(storage.nbytes() for storage in saved.values())


def measure_latency(config: RunConfig, bundle: TrainingBundle, encoded: Encoded) -> dict[str, float | None]:
    """Return milliseconds a row, one at a time: the median over the first rows of a split, in the run's precision.

    The model is merged for the second figure and stays so; None where there is nothing to merge, the method does not
    merge, or its base is quantised.
    """
    found: dict[str, float | None] = {"latency_ms": _milliseconds(config, bundle, encoded), "merged_latency_ms": None}
    if isinstance(bundle.model, PeftModel) and is_mergeable(bundle.model) and config.method.quantization is None:
        bundle.model = merge(bundle.model)
        found["merged_latency_ms"] = _milliseconds(config, bundle, encoded)
    return found


def _milliseconds(config: RunConfig, bundle: TrainingBundle, encoded: Encoded) -> float:
    rows = [encoded.inputs[row] for row in range(min(LATENCY_EXAMPLES, len(encoded.inputs)))]
    spent = []
    with predictor(config, bundle) as trainer:
        model = trainer.model.eval()
        for row in rows[:WARM_UP] + rows:
            inputs: Any = trainer.prepare_inputs(bundle.format.collator()([row]))
            started = time.perf_counter()
            with torch.no_grad(), trainer.compute_loss_context_manager():
                trainer.reader(model, inputs).float().cpu()  # to the CPU: a GPU has then done its work
            spent.append(1000 * (time.perf_counter() - started))
    return median(spent[len(rows[:WARM_UP]) :])


def run_costs(
    trained: TrainedRun, train: Encoded, artifact_bytes: int | None, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the costs of a result: weights, bytes, seconds, tokens and steps, and those measured elsewhere."""
    fit, parameters = trained.fit, trained.parameters
    tokens = round(train.tokens * fit.epochs)
    batch_size = trained.trainer.args.train_batch_size
    return {
        "trainable_params": parameters.trainable,
        "head_params": parameters.head,
        "total_params": parameters.total,
        "adapter_bytes": artifact_bytes,
        "train_seconds": fit.seconds,
        "train_peak_bytes": fit.peak_bytes,
        "train_reserved_bytes": fit.reserved_bytes,
        **measured,
        "tokens": tokens,
        "padding_waste": padding_waste(train.lengths, trained.order, batch_size),
        "tokens_per_second": tokens / fit.seconds if tokens else 0.0,
        "steps": fit.steps,
        "epochs": fit.epochs,
    }
