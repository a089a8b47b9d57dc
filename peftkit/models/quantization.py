"""Bases in 4 or 8 bits: their config, and their weights in full precision."""

from typing import Any

import torch
from transformers import PreTrainedModel

from peftkit.compat.transformers import Conv1D, dequantized, is_quantized
from peftkit.config.families import HEADS, LANGUAGE_MODEL_HEADS


def quantization_config(settings: dict[str, Any]) -> Any:
    """Return transformers' BitsAndBytesConfig with these arguments, which leaves heads in full precision."""
    from transformers import BitsAndBytesConfig

    # a quantized head inside modules_to_save fails an assertion in its first forward pass. The names are patterns:
    # the linear layer of a pooler has another name
    heads = sorted({".*pooler" if name == "pooler" else name for name in HEADS | LANGUAGE_MODEL_HEADS})
    kept = [*heads, *(settings.get("llm_int8_skip_modules") or [])]
    return BitsAndBytesConfig(**{**settings, "llm_int8_skip_modules": kept})


@torch.no_grad()
def copy_dequantized(model: PreTrainedModel, quantized: PreTrainedModel) -> PreTrainedModel:
    """Copy the dequantized weights of a model in 4 or 8 bits into the same model in full precision.

    An adapter that was trained on quantized weights is merged into these: merged into the original weights it would
    be a model that was never trained.
    """
    for name, module in quantized.named_modules():
        if is_quantized(module):
            plain: Any = model.get_submodule(name)
            rounded = dequantized(module)
            # GPT-2's Conv1D is stored transposed
            plain.weight.copy_(rounded.T if isinstance(plain, Conv1D) else rounded)
    return model
