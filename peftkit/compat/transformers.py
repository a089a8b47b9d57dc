"""Undocumented parts of transformers and bitsandbytes: attention functions, tied weights, packed weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.pytorch_utils import Conv1D

__all__ = [
    "Conv1D",
    "attention_implementation",
    "auto_model_class",
    "compute_in_fp32",
    "dequantized",
    "eager_attention",
    "generation_values",
    "is_quantized",
    "keep_untied",
    "disable_weight_packing",
    "number_of_weights",
    "apply_pooler",
    "register_sdpa_attention",
    "sdpa_configs",
    "sdpa_attention_forward",
    "set_attention_implementation",
    "uses_reentrant_checkpointing",
]


def auto_model_class(auto: Any, config: PretrainedConfig) -> Any:
    """Return the class of the model that an Auto class loads for a config."""
    return auto._model_mapping[type(config)]


def generation_values(model: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all generation settings by name: the given ones, the checkpoint's, else the defaults.

    Without a setting, nothing is sampled.
    """
    own = {name: value for name, value in model.generation_config.to_dict().items() if value is not None}
    return {**GenerationConfig._get_default_generation_params(), **own, "do_sample": False, **settings}


def register_sdpa_attention(name: str, attention: Callable[..., Any]) -> None:
    """Register an attention function that receives sdpa's masks."""
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)


def attention_implementation(config: PretrainedConfig) -> str:
    """Return the name of the attention function of a model with this config."""
    return str(config._attn_implementation)


def set_attention_implementation(config: PretrainedConfig, name: str) -> None:
    """Set the attention function; a model's own method accepts only those that its class lists."""
    config._attn_implementation_internal = name


def sdpa_configs(model: nn.Module) -> list[PretrainedConfig]:
    """Return the configs by which parts of a model attend with sdpa; none where the attention is fixed."""
    if not all(part._can_set_attn_implementation() for part in model.modules() if isinstance(part, PreTrainedModel)):
        return []
    configs = {id(config): config for part in model.modules() if (config := vars(part).get("config")) is not None}
    found = [config for config in configs.values() if isinstance(config, PretrainedConfig)]
    return [config for config in found if attention_implementation(config) == "sdpa"]


@contextmanager
def eager_attention(configs: Sequence[PretrainedConfig]) -> Iterator[None]:
    """Attend with separate matrix products, in place of sdpa, where these configs are read."""
    for config in configs:
        set_attention_implementation(config, "eager")
    try:
        yield
    finally:
        for config in configs:
            set_attention_implementation(config, "sdpa")


def uses_reentrant_checkpointing(model: nn.Module) -> bool:
    """Return whether a layer of a model recomputes its activations in a backward pass of its own."""
    functions = (
        getattr(module, "_gradient_checkpointing_func", None)
        for module in model.modules()
        if module.training and getattr(module, "gradient_checkpointing", False)
    )
    return any(bool(getattr(each, "keywords", {}).get("use_reentrant")) for each in functions)


def keep_untied(model: PreTrainedModel, layer: nn.Module) -> None:
    """Record that a layer's weights are not tied, although the model's class declares them tied."""
    own = {f"{name}.weight" for name, module in model.named_modules() if module is layer}
    if isinstance(tied := getattr(model, "_tied_weights_keys", None), dict):
        model._tied_weights_keys = {target: source for target, source in tied.items() if target not in own}
        for name in own:
            model.all_tied_weights_keys.pop(name, None)


def apply_pooler(stack: Any, states: torch.Tensor) -> torch.Tensor:
    """Apply a backbone's own pooler to states (batch, tokens, dim) that a tuner changed.

    ALBERT's consists of two modules.
    """
    is_split = hasattr(stack, "pooler_activation")
    return stack.pooler_activation(stack.pooler(states[:, 0])) if is_split else stack.pooler(states)  # type: ignore[no-any-return]


def is_quantized(module: nn.Module) -> bool:
    """Return whether a module's weight is stored in 4 or 8 bits."""
    # by name: bitsandbytes need not be installed
    return type(getattr(module, "weight", None)).__name__ in ("Params4bit", "Int8Params")


def dequantized(module: nn.Module) -> torch.Tensor:
    """Return the values (out, in) of a weight in 4 or 8 bits."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight  # imports bitsandbytes

    return dequantize_bnb_weight(module.weight, getattr(module, "state", None))  # type: ignore[no-any-return]


@contextmanager
def compute_in_fp32(model: nn.Module) -> Iterator[None]:
    """Compute with the dequantized 4-bit weights in fp32 instead of bf16; does nothing to a model without any."""
    layers: list[Any] = [each for each in model.modules() if hasattr(each, "compute_type_is_set")]
    before = [(layer.compute_dtype, layer.compute_type_is_set) for layer in layers]
    for layer in layers:
        layer.compute_dtype, layer.compute_type_is_set = torch.float32, True
    try:
        yield
    finally:
        for layer, (dtype, is_set) in zip(layers, before, strict=True):
            layer.compute_dtype, layer.compute_type_is_set = dtype, is_set


def number_of_weights(parameter: nn.Parameter) -> int:
    """Count the weights of a parameter; a byte of `Params4bit` holds two."""
    return parameter.numel() * (2 if type(parameter).__name__ == "Params4bit" else 1)


def disable_weight_packing(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights on CPU in eval mode: packed weights do not propagate gradients."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
