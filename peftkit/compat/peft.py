"""Undocumented parts of peft: registration of tuners, known target modules, disabled layers, saved heads."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from aenum import extend_enum
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftType
from peft.helpers import disable_input_dtype_casting
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.ia3.layer import Linear as IA3Linear
from peft.tuners.lora.layer import Linear
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from peft.utils.constants import DUMMY_TARGET_MODULES
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

__all__ = [
    "DUMMY_TARGET_MODULES",
    "AuxiliaryTrainingWrapper",
    "ModulesToSaveWrapper",
    "TrainableTokensLayer",
    "disabled_adapters",
    "dequantize_module_weight",
    "fill_target_modules",
    "computes_with_weight",
    "lora_without_casts",
    "ignored_tie_warnings",
    "merge_error",
    "peft_type",
    "register_tuner",
    "unwrap_saved_module",
]


def peft_type(name: str) -> PeftType:
    """Return PEFT's type of one of peftkit's tuners, added to the enum first, as register_peft_method requires."""
    if name not in PeftType.__members__:
        extend_enum(PeftType, name, name)
    return PeftType[name]


def register_tuner(name: str, config: type[PeftConfig], tuner: type[BaseTuner]) -> None:
    """Make a tuner available to get_peft_model and PeftModel.from_pretrained. Calling it twice changes nothing."""
    if peft_type(name) not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=name.lower(), config_cls=config, model_cls=tuner)


def fill_target_modules(config: PeftConfig, model_type: str) -> None:
    """Set the modules that PEFT targets in models of this type, if it knows any."""
    tuner: Any = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]  # type: ignore[index]
    if hasattr(tuner, "target_module_mapping") or hasattr(config, "feedforward_modules"):
        with suppress(ValueError):  # get_peft_model raises it again
            object.__new__(tuner)._prepare_adapter_config(config, {"model_type": model_type})


@contextmanager
def lora_without_casts(model: nn.Module) -> Iterator[None]:
    """Keep LoRA's layers from casting their inputs to fp32 where autocast casts them back to its own type.

    The results are the same bits, since fp32 has all values of bf16 and fp16. DoRA, dropout and other tuners compute
    with the inputs, so that their models are left as they are.
    """
    layers = [each for each in model.modules() if isinstance(each, BaseTunerLayer)]
    is_plain = all(
        type(each) is Linear
        and not each.lora_variant
        and all(isinstance(dropout, nn.Identity) for dropout in each.lora_dropout.values())
        for each in layers
    )
    with disable_input_dtype_casting(model, active=is_plain):
        yield


def computes_with_weight(layer: BaseTunerLayer) -> bool:
    """Return whether a layer of PEFT may compute with its base's weight, rather than only call the base."""
    return type(layer) not in (Linear, IA3Linear) or bool(getattr(layer, "lora_variant", None))


def merge_error(tuner: BaseTuner) -> str | None:
    """Return why a tuner cannot merge its adapters into the base, None where it can."""
    try:
        with ignored_tie_warnings():
            tuner._check_merge_allowed()  # type: ignore[no-untyped-call]
    except ValueError as error:
        return str(error)
    return None


@contextmanager
def ignored_tie_warnings() -> Iterator[None]:
    """Ignore PEFT's warnings that an adapted matrix is tied to another: `methods.merging` keeps them apart."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*tie_word_embeddings")
        yield


def unwrap_saved_module(wrapper: ModulesToSaveWrapper) -> nn.Module:
    """Return the trained copy of a module that was fully trained and saved."""
    return wrapper.unload_and_optionally_merge_module(True, False, None)  # type: ignore[no-any-return]


@contextmanager
def disabled_adapters(
    model: nn.Module, layer_type: type[nn.Module] | type[BaseTunerLayer] = BaseTunerLayer
) -> Iterator[None]:
    """Disable the adapters of these layers; unlike in `disable_adapter()`, heads keep their trained weights."""
    layers: list[Any] = [module for module in model.modules() if isinstance(module, layer_type)]
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, was_disabled in zip(layers, before, strict=True):
            layer._disable_adapters = was_disabled


def dora_magnitude(layer: Any, adapter: str) -> tuple[nn.Parameter, torch.Tensor]:
    """Return DoRA's magnitudes, and the norms of the base's weight, their initial values (Liu et al. 2024, 4.1)."""
    dora = layer.lora_magnitude_vector[adapter]
    weight = dequantize_module_weight(layer.get_base_layer())
    return dora.weight, dora.get_weight_norm(weight, torch.zeros_like(weight[:1, :1]), 0).detach()
