"""Tiny models of every family and head with mixes of prefix, adapter and LoRA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn

from helpers.soft_prompt_models import MODELS, WITHOUT_RECORD, build
from peftkit.methods.mix import MixConfig

MIXES: dict[str, dict[str, Any]] = {
    "mam": {"kind": "parallel", "scaling": 4.0, "activation": "relu", "reduction_factor": 4},
    "unipelt": {"kind": "pfeiffer", "reduction_factor": 4, "rank": 3, "gated": True},
}
CELLS = [pytest.param(name, mix, id=f"{name}-{mix}") for name in MODELS if name not in WITHOUT_RECORD for mix in MIXES]


def wrapped(name: str, mix: str, base: Any = None, **more: Any) -> Any:
    base = build(name) if base is None else base
    torch.manual_seed(1)
    config = MixConfig(task_type=MODELS[name][2], num_virtual_tokens=3, **MIXES[mix] | more)
    return get_peft_model(base, config).eval()


def strong(model: Any, seed: int = 2) -> Any:
    """Give every weight of the mix a random value, so that it shows."""
    torch.manual_seed(seed)
    for _, weight in own_weights(model).items():
        nn.init.normal_(weight, std=0.4)
    return model


def own_weights(model: Any) -> dict[str, torch.Tensor]:
    return {n: w for n, w in model.named_parameters() if "bottleneck_" in n or "soft_prompt_" in n}
