"""Arithmetic on models of one base: the changes that training made to the weights below their heads, and their sums."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from peft.utils.merge_utils import dare_linear, dare_ties, magnitude_prune, ties
from torch import nn
from transformers import PreTrainedModel

from peftkit.methods.merging import copy_shared_weights, tie_equal_weights

MERGES: dict[str, Callable[..., torch.Tensor]] = {
    "ties": ties, "dare_linear": dare_linear, "dare_ties": dare_ties, "magnitude_prune": magnitude_prune
}  # fmt: skip
Change = dict[str, torch.Tensor]  # by the name of a weight; a weight without a change is absent


def body_weights(model: PreTrainedModel, heads: Collection[str]) -> dict[str, nn.Parameter]:
    """Return the weights of a model without its head, by their names in the backbone; a shared one under each name.

    Args:
        heads: the names of the weights of its head.
    """
    prefix = f"{model.base_model_prefix}."
    weights = model.named_parameters(remove_duplicate=False)
    return {name.removeprefix(prefix): weight for name, weight in weights if name not in heads}


@torch.no_grad()
def change_of(tuned: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]) -> Change:
    """Return tuned less base of each weight that differs, in fp64: there the difference of fp32 weights is exact."""
    return {
        name: weight.double() - base[name].double()
        for name, weight in tuned.items()
        if not torch.equal(weight, base[name])
    }


def shared_names(weights: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """Return the name of each weight, and for a shared one the first of its names."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(weight), name) for name, weight in weights.items()}


def norm_of(change: Change, first: Mapping[str, str]) -> float:
    """Return the Euclidean norm of a change over all weights, where a shared one counts once.

    Args:
        first: of `shared_names`.
    """
    squares = []
    for name, weight in change.items():
        is_copy = first[name] != name and first[name] in change and torch.equal(change[first[name]], weight)
        squares += [] if is_copy else [float(weight.square().sum())]
    return float(sum(squares) ** 0.5)


def add_scaled(total: Change, change: Change, factor: float) -> None:
    """Add a multiple of a change to a sum, in place."""
    for name, weight in change.items():
        if factor:
            total[name] = total[name].add_(weight, alpha=factor) if name in total else weight * factor


def distance(change: Change, other: Change, first: Mapping[str, str]) -> float:
    """Return the norm of the difference of two changes, relative to that of the second; 0 where both are zero."""
    difference = dict(other)
    for name, weight in change.items():
        difference[name] = difference[name] - weight if name in difference else weight
    return norm_of(difference, first) / (norm_of(other, first) or 1.0)


def merge_changes(
    method: str,
    changes: Sequence[Change],
    weights: Sequence[float],
    settings: Mapping[str, Any],
    first: Mapping[str, str],
) -> Change:
    """Combine changes by one of PEFT's functions for the matrices of LoRA, here applied to each changed weight.

    TIES (Yadav et al. 2023) and DARE (Yu et al. 2024) prune each change. The signs of TIES are elected before the
    changes are multiplied with their weights.

    Args:
        settings: the density, and majority_sign_method of TIES.
        first: of each weight the first of its names: a shared weight gets one result.
    """
    found: Change = {}
    factors = torch.tensor(weights, dtype=torch.float64)
    for name in dict.fromkeys(name for change in changes for name in change):
        like = next(change[name] for change in changes if name in change)
        tensors = [change.get(name, torch.zeros_like(like)) for change in changes]
        known = first[name]
        is_shared = known in found and all(
            torch.equal(tensor, change.get(known, tensor)) for tensor, change in zip(tensors, changes, strict=True)
        )
        found[name] = found[known] if is_shared else MERGES[method](tensors, factors, **settings)
    return found


@torch.no_grad()
def set_body(model: PreTrainedModel, heads: Collection[str], base: Mapping[str, torch.Tensor], change: Change) -> None:
    """Set the weights below a model's head to those of the base plus a change.

    Weights that were tied are tied again where they are equal.
    """
    copy_shared_weights(model)
    for name, weight in body_weights(model, heads).items():
        weight.copy_(base[name].double() + change[name] if name in change else base[name])
    tie_equal_weights(model)
