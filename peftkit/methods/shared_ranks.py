"""LoRA of several tasks with ranks that all share and ranks of each task's own, as one LoRA of both for each task."""

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.utils import parametrize


class _JoinedRanks(nn.Module):
    """The matrix of a LoRA layer: the shared ranks, then those of the task, along `dim`."""

    def __init__(self, shared: nn.Parameter, dim: int) -> None:
        super().__init__()
        self.shared, self.dim = shared, dim

    def forward(self, own: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.shared, own], dim=self.dim)

    def right_inverse(self, both: torch.Tensor) -> torch.Tensor:
        """Return the ranks of the task."""
        size = self.shared.shape[self.dim]
        return both.narrow(self.dim, size, both.shape[self.dim] - size).clone()


def share_ranks(models: Sequence[nn.Module]) -> None:
    """Share the first half of the ranks of the models' LoRA layers; the second half is each model's own.

    W + s B A with A = [A_shared; A_own] and B = [B_shared, B_own] is W + s B_shared A_shared + s B_own A_own.
    """
    for layers in zip(*map(_matrices, models), strict=True):
        first, dim = layers[0]
        size = first.weight.shape[dim] // 2
        shared = nn.Parameter(first.weight.detach().narrow(dim, 0, size).clone())
        for layer, _ in layers:
            parametrize.register_parametrization(layer, "weight", _JoinedRanks(shared, dim))


def join_ranks(model: nn.Module) -> None:
    """Give a model's LoRA layers plain matrices, of the shared and of its own ranks."""
    for layer, _ in _matrices(model):
        both = layer.weight.detach().clone()
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        layer.weight = nn.Parameter(both)


def _matrices(model: nn.Module) -> list[tuple[Any, int]]:
    """Return the modules of the matrices A (rank, in) and B (out, rank), each with the dimension of the rank."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    return [
        (matrix, dim)
        for layer in layers
        for matrices, dim in ((layer.lora_A, 0), (layer.lora_B, 1))
        for matrix in matrices.values()
    ]
