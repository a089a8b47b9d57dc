"""Turn a method's config into one that also trains the embeddings' rows of new tokens, and no other row."""

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
    """Return the config that trains these rows too: of the input embeddings, and of an output layer not tied to them.

    Full fine-tuning trains every row as it is. PEFT's TrainableTokensConfig has no place for a head; a LoRA that
    reaches no layer trains the same rows, and has one.

    Raises:
        UserError: the method can train no single rows.
    """
    if isinstance(config, Full):
        return config
    if isinstance(config, TrainableTokensConfig):
        config = LoraConfig(r=1, target_modules=DUMMY_TARGET_MODULES, task_type=config.task_type)
    if not isinstance(config, PeftConfig) or not hasattr(config, "trainable_token_indices"):
        raise UserError("this method cannot train the rows of vocab=; try method=lora, adapter, qlora or full")
    ids = list(new_rows)
    layers = [model.get_input_embeddings(), *_own_output(model)]
    names = {name: ids for name, module in model.named_modules() if any(module is layer for layer in layers)}
    config.trainable_token_indices = ids if len(names) == 1 else names
    return config


def keep_bias(model: nn.Module) -> nn.Module:
    """Give an output layer that is tied to trained rows its bias back: PEFT 0.21's layer for it has none.

    BERT's masked language model head has such a bias; where the rows are merged or off, PEFT asks the layer itself.
    """
    for layer in model.modules():
        if isinstance(layer, TrainableTokensLayer) and getattr(layer.base_layer, "bias", None) is not None:
            layer.register_forward_hook(_with_bias)
    return model


def _with_bias(layer: Any, inputs: Any, out: torch.Tensor) -> torch.Tensor:
    is_on = layer.active_adapters and not layer.disable_adapters and not layer.merged
    return out + layer.base_layer.bias.to(out.dtype) if is_on else out


def embedding_rows(model: Any) -> torch.Tensor:
    """Return the rows (vocabulary, width) of the input embeddings, those that train in their places."""
    layers = (module for module in model.modules() if isinstance(module, TrainableTokensLayer))
    layer = next((layer for layer in layers if isinstance(layer.base_layer, nn.Embedding)), None)
    if layer is None or layer.merged:
        return model.get_input_embeddings().weight.detach()
    return layer.get_merged_weights(layer.active_adapters).detach()


def _own_output(model: PreTrainedModel) -> list[nn.Module]:
    """Return the output layer where its weights are its own."""
    output: Any = model.get_output_embeddings()
    is_own = output is not None and output.weight is not model.get_input_embeddings().weight
    return [output] if is_own else []
