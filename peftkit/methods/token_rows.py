"""Turn a method's config into one that also trains the embeddings' rows of new tokens, and no other row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peft import LoraConfig, PeftConfig, TrainableTokensConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from transformers import PreTrainedModel

from peftkit.methods.own import Full
from peftkit.schema import UserError


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


def _own_output(model: PreTrainedModel) -> list[nn.Module]:
    """Return the output layer where its weights are its own."""
    output: Any = model.get_output_embeddings()
    is_own = output is not None and output.weight is not model.get_input_embeddings().weight
    return [output] if is_own else []
