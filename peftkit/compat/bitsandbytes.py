"""Undocumented parts of bitsandbytes: classes of packed weights, their values, and packing on the CPU."""

from __future__ import annotations

import torch
from torch import nn
from transformers.integrations.bitsandbytes import dequantize_bnb_weight

PACKED = ("Params4bit", "Int8Params")  # by name: bitsandbytes need not be installed


def is_quantized(module: nn.Module) -> bool:
    """Return whether a module's weight is held in 4 or 8 bits."""
    return type(getattr(module, "weight", None)).__name__ in PACKED


def dequantized(module: nn.Module) -> torch.Tensor:
    """Return the values (out, in) of a weight in 4 or 8 bits."""
    return dequantize_bnb_weight(module.weight, getattr(module, "state", None))  # type: ignore[no-any-return]


def number_of_weights(parameter: nn.Parameter) -> int:
    """Count the weights of a parameter; a byte of `Params4bit` holds two."""
    return parameter.numel() * (2 if type(parameter).__name__ == "Params4bit" else 1)


def never_pack(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights on CPU in eval mode: packed weights pass no gradient on."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
