"""Prediction of the memory that training needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from peftkit.compat.memory import AllocatedMemory
from peftkit.training import ScoringTrainer

ADAM_STATES = 2  # moments per trained weight


@dataclass(frozen=True)
class Memory:
    """Predicted bytes while training; `step` is measured on one batch, the rest is counted."""

    weights: int
    optimizer: int
    step: int  # activations, gradients and the loss at their common peak

    @property
    def total(self) -> int:
        return self.weights + self.optimizer + self.step


def predict_memory(trainer: ScoringTrainer, batch: Mapping[str, Any]) -> Memory:
    """Count weights and AdamW's states, and measure the forward and backward pass of a batch by the trainer's own loss.

    With gradient accumulation, the gradients of earlier batches exist during the pass. A model without trained weights
    is only scored.
    """
    model = trainer.model
    weights = list(model.parameters())
    gradients = sum(weight.nbytes for weight in weights if weight.requires_grad)
    inputs = trainer.prepare_inputs(dict(batch))
    prepared = trainer.accelerator.prepare_model(model)
    with AllocatedMemory([*weights, *model.buffers()]) as allocated:
        if gradients:
            trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps  # as train() does
            trainer.training_step(prepared, inputs)
        else:
            with torch.no_grad():
                trainer.reader(prepared.eval(), inputs)
    step = max(allocated.peak + (gradients if trainer.args.gradient_accumulation_steps > 1 else 0), gradients)
    return Memory(sum(weight.nbytes for weight in weights), ADAM_STATES * gradients, step)
