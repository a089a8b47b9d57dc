"""Undocumented parts of transformers: attention functions, ties between weights, poolers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.t5.modeling_t5 import T5Stack
from transformers.pytorch_utils import Conv1D

__all__ = [
    "Conv1D",
    "T5Stack",
    "attention_implementation",
    "keep_untied",
    "pooled",
    "register_sdpa_attention",
    "sdpa_attention_forward",
    "set_attention_implementation",
]


def register_sdpa_attention(name: str, attention: Callable[..., Any]) -> None:
    """Register an attention function that reads the masks of sdpa."""
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)


def attention_implementation(config: PretrainedConfig) -> str:
    """Return the name of the attention function of a model with this config."""
    return str(config._attn_implementation)


def set_attention_implementation(config: PretrainedConfig, name: str) -> None:
    """Choose the attention function; a model's own method would refuse what its class does not list."""
    config._attn_implementation_internal = name


def keep_untied(model: PreTrainedModel, layer: nn.Module) -> None:
    """Record that a layer has weights of its own, against what the model's class declares."""
    own = {f"{name}.weight" for name, module in model.named_modules() if module is layer}
    if isinstance(tied := getattr(model, "_tied_weights_keys", None), dict):
        model._tied_weights_keys = {target: source for target, source in tied.items() if target not in own}
        for name in own:
            model.all_tied_weights_keys.pop(name, None)


def pooled(stack: Any, states: torch.Tensor) -> torch.Tensor:
    """Apply a backbone's own pooler to states (batch, tokens, width) that a tuner changed.

    ALBERT's consists of two modules.
    """
    if hasattr(stack, "pooler_activation"):
        return stack.pooler_activation(stack.pooler(states[:, 0]))  # type: ignore[no-any-return]
    return stack.pooler(states)  # type: ignore[no-any-return]
