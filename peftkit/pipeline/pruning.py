"""Pruning of a trained model's attention heads by their importance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from peftkit.config.progress import stage
from peftkit.models.attention_heads import AttentionLayer, masked_heads
from peftkit.pipeline.build import TrainingBundle

Importance = dict[str, np.ndarray]  # (heads,) by layer


def head_importance(
    bundle: TrainingBundle, layers: Sequence[AttentionLayer], examples: Dataset, seed: int
) -> Importance:
    """Return the importance of each head (Michel et al. 2019, equation 1), not normalized.

    It is the mean over examples of the absolute derivative of an example's loss by a factor, 1, of the head's output.
    Each example is a batch of its own, so that no other and no padding changes its loss.
    """
    model = bundle.model.eval().requires_grad_(False)
    device = next(model.parameters()).device
    inputs, collate = bundle.format.encode_training(examples, seed).inputs, bundle.format.collator()
    found = {layer.name: np.zeros(layer.heads) for layer in layers}
    with stage("judging heads", len(inputs)) as progress:
        for example in inputs:
            masks = {layer.name: torch.ones(layer.heads, requires_grad=True) for layer in layers}
            batch = {name: value.to(device) for name, value in collate([example]).items()}
            with masked_heads(layers, masks):
                model(**batch).loss.backward()
            for name, mask in masks.items():
                assert mask.grad is not None
                found[name] += mask.grad.abs().numpy()
            progress.done += 1
    return {name: total / len(inputs) for name, total in found.items()}


def least_important(importance: Mapping[str, np.ndarray], share: float) -> dict[str, list[int]]:
    """Return the heads to remove, by layer: the given share of all, rounded, of the lowest importance.

    Importance is compared after division by the l2 norm of its layer (Michel et al. 2019, section 4.1, after Molchanov
    et al. 2017). The most important head of each layer stays.
    """
    ranked = []
    for name, values in importance.items():
        norm = float(np.linalg.norm(values)) or 1.0
        order = np.argsort(values, kind="stable")[:-1]
        ranked += [(float(values[head]) / norm, name, int(head)) for head in order]
    number = round(share * sum(map(len, importance.values())))
    removed: dict[str, list[int]] = {}
    for _, name, head in sorted(ranked)[:number]:
        removed.setdefault(name, []).append(head)
    return {name: sorted(removed[name]) for name in importance if name in removed}


def zeros_of(layers: Sequence[AttentionLayer], removed: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Return the masks of a model whose removed heads have the output 0."""
    masks = {layer.name: torch.ones(layer.heads) for layer in layers}
    for name, heads in removed.items():
        masks[name][list(heads)] = 0
    return masks


def describe_layers(layers: Sequence[AttentionLayer], removed: Mapping[str, Sequence[int]]) -> str:
    """Return how many heads each layer keeps."""
    return " ".join(str(layer.heads - len(removed.get(layer.name, ()))) for layer in layers)


def as_lists(importance: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: [float(f"{value:.6g}") for value in values] for name, values in importance.items()}
