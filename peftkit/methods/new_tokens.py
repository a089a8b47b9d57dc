"""Training of the embedding rows of new tokens, and of no other row, beside a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, TrainableTokensConfig
from torch import nn
from transformers import PreTrainedModel

from peftkit.compat.peft import DUMMY_TARGET_MODULES, TrainableTokensLayer
from peftkit.config import UserError
from peftkit.methods.native import Full


def with_rows(config: Any, model: PreTrainedModel, new_rows: Sequence[int]) -> Any:
    """Return a config that also trains these rows of the input embeddings and of an output layer not tied to them.

    Full fine-tuning trains every row anyway. PEFT's TrainableTokensConfig cannot save a head; a LoRA on no layer trains
    the same rows, and can.

    Raises:
        UserError: the method cannot train single rows.
    """
    if isinstance(config, Full):
        return config
    if isinstance(config, TrainableTokensConfig):
        config = LoraConfig(r=1, target_modules=DUMMY_TARGET_MODULES, task_type=config.task_type)
    if not isinstance(config, PeftConfig) or not hasattr(config, "trainable_token_indices"):
        raise UserError("this method cannot train the rows of vocab=; use method=lora, adapter, qlora or full")
    ids = list(new_rows)
    layers = [model.get_input_embeddings(), *_own_output(model)]
    names = {name: ids for name, module in model.named_modules() if any(module is layer for layer in layers)}
    config.trainable_token_indices = ids if len(names) == 1 else names
    return config


def keep_bias(model: nn.Module) -> nn.Module:
    """Add the bias of an output layer that is tied to trained rows, which PEFT 0.21's layer for it omits.

    BERT's masked language model head has such a bias; where the rows are merged or off, PEFT calls the layer itself.
    """
    for layer in model.modules():
        if isinstance(layer, TrainableTokensLayer) and getattr(layer.base_layer, "bias", None) is not None:
            layer.register_forward_hook(_with_bias)
    return model


def _with_bias(layer: Any, inputs: Any, out: torch.Tensor) -> torch.Tensor:
    is_on = layer.active_adapters and not layer.disable_adapters and not layer.merged
    return out + layer.base_layer.bias.to(out.dtype) if is_on else out


def embedding_rows(model: Any) -> torch.Tensor:
    """Return the input embeddings (vocabulary, width), with the trained rows."""
    layers = (module for module in model.modules() if isinstance(module, TrainableTokensLayer))
    layer = next((layer for layer in layers if isinstance(layer.base_layer, nn.Embedding)), None)
    if layer is None or layer.merged:
        return model.get_input_embeddings().weight.detach()
    return layer.get_merged_weights(layer.active_adapters).detach()


def _own_output(model: PreTrainedModel) -> list[nn.Module]:
    """Return the output layer where it is not tied."""
    output: Any = model.get_output_embeddings()
    is_own = output is not None and output.weight is not model.get_input_embeddings().weight
    return [output] if is_own else []
