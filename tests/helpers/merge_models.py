"""Models with the shipped settings of a method and random trainable weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from helpers.commands import compose_config
from peftkit.methods import apply_method

MERGES = ("lora", "qlora", "dora", "rslora", "adalora", "vera", "ia3", "oft", "boft", "ln_tuning")
FAMILY = {"gpt2": "gpt2", "t5": "t5"}


@cache
def part(method: str) -> Any:
    """Return conf/method's part, as a dict."""
    return OmegaConf.to_container(compose_config([f"method={method}"]).method)


def wrapped(method: str, build: Any) -> Any:
    """Return a model with the method's shipped settings and all that trains random, so that it shows."""
    steps = {"total_step": 10} if method == "adalora" else {}
    torch.manual_seed(0)
    config = instantiate({**part(method)["config"], **steps}, _convert_="all")
    model = apply_method(build(), config).eval()
    return randomize(model)


@torch.no_grad()
def randomize(model: Any) -> Any:
    """Change every trainable weight of a model by random numbers; return the model."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def losing(merge: Callable[[Any], Any], layer: str) -> Callable[[Any], Any]:
    """Return a function that merges, and sets the weights of a layer to zero."""

    def merge_without(model: Any) -> Any:
        found = merge(model)
        torch.nn.init.zeros_(found.get_submodule(layer).weight)
        return found

    return merge_without
