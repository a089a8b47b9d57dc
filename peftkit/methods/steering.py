"""Activation steering: a vector is added to the states of one layer of a pretrained model, whose weights stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from peftkit.compat.tuner import check_values
from peftkit.config import UserError, refusal
from peftkit.methods.gradual import layer_lists
from peftkit.methods.native import Prompting


@dataclass(frozen=True)
class Steering(Prompting):
    """Prompt the pretrained model, and add a vector to the output of one layer (Rimsky et al. 2024, section 3).

    The vector is `strength` times the difference of the mean states of two classes, the second less the first.

    Args:
        layer: its number, from 0, of T5 in the decoder; None: the middle one.
        samples: training examples of each class for its mean.

    Raises:
        ValueError: `samples` is not above 0.
    """

    layer: int | None = None
    strength: float = 1.0
    samples: int = 64

    def __post_init__(self) -> None:
        check_values((self.samples < 1, f"samples={self.samples}: expected a number above 0"))

    def layer_name(self, model: Any) -> str:
        """Return the full name of the layer.

        Raises:
            UserError: the model has no such layer.
        """
        name, number = list(layer_lists(model).items())[-1]  # of T5 the decoder's
        layer = number // 2 if self.layer is None else self.layer
        if not 0 <= layer < number:
            wrong = f"method.config.layer={layer}: the model has {number} layers, counted from 0"
            raise UserError(refusal(wrong, f"method.config.layer={number // 2}"))
        return f"{name}.{layer}"


@dataclass(frozen=True)
class SteeringVector:
    """A vector (dim,), with its strength, and the full name of the layer to whose output it is added."""

    layer: str
    vector: torch.Tensor

    def attach(self, model: nn.Module) -> None:
        """Add the vector in every later forward pass, at every position."""
        model.get_submodule(self.layer).register_forward_hook(self._add)

    def _add(self, _: nn.Module, inputs: Any, output: Any) -> Any:
        states, *others = output if isinstance(output, tuple) else (output,)
        states = states + self.vector.to(states.device, states.dtype)
        return (states, *others) if isinstance(output, tuple) else states
