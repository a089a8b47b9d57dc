"""Turn a model and one batch into the memory that training will need, before any step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

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
