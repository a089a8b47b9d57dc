"""Scaling of a method's change: interpolation between the base and the trained model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn

from peftkit.compat.peft import ModulesToSaveWrapper, dora_magnitude
from peftkit.methods.native import is_head

# trained weights, each with the values at which the method changes nothing
WeightPairs = list[tuple[nn.Parameter, torch.Tensor]]

# by PEFT's type of the method, the weights that scale its whole change, and their values without any change. What they
# multiply keeps its trained values, so that half of them is half of the change: LoRA's B acts as its alpha, an
# adapter's up projection as its scaling; AdaLoRA has singular values, IA3 vectors 1 + s (l - 1), OFT and BOFT rotations
NEUTRAL: dict[str, dict[str, float]] = {
    "LORA": {"lora_B": 0, "lora_embedding_B": 0},
    "ADALORA": {"lora_E": 0},
    "VERA": {"vera_lambda_b": 0},
    "IA3": {"ia3_l": 1},
    "OFT": {"oft_R": 0},
    "BOFT": {"boft_R": 0, "boft_s": 1},
    "LN_TUNING": {},  # its norms are copies of the base's
    "BOTTLENECK": {"bottleneck_up": 0},
}


@contextmanager
def scaled(pairs: WeightPairs, factor: float) -> Iterator[None]:
    """Scale the change by this factor in the context: 0 is the base and 1 exactly the trained model."""
    trained = [weight.detach().clone() for weight, _ in pairs]
    try:
        with torch.no_grad():
            for (weight, neutral), full in zip(pairs, trained, strict=True):
                weight.copy_(torch.lerp(neutral, full, factor))
        yield
    finally:
        with torch.no_grad():
            for (weight, _), full in zip(pairs, trained, strict=True):
                weight.copy_(full)


def adapter_pairs(model: PeftModel) -> WeightPairs | None:
    """Return the weights that scale the active adapter's change, without heads; None where the method has none.

    A soft prompt, a mix that contains one, and a mix of layers cannot be scaled.
    """
    config, adapter = model.active_peft_config, str(model.active_adapter)
    neutral = NEUTRAL.get(str(getattr(config.peft_type, "value", config.peft_type)))
    if neutral is None:
        return None
    pairs = [
        (weight, torch.full_like(weight, neutral[name], requires_grad=False))
        for key, weight in model.named_parameters()
        for name in neutral.keys() & key.split(".")
        if adapter in key.split(".")
    ]
    for key, module in model.named_modules():
        if adapter in getattr(module, "lora_magnitude_vector", {}):
            pairs.append(dora_magnitude(module, adapter))
        elif adapter in getattr(module, "ln_tuning_layers", {}):
            pairs += weight_pairs(module.ln_tuning_layers[adapter], module.base_layer)  # type: ignore[index, operator, arg-type, union-attr]
        elif isinstance(module, ModulesToSaveWrapper) and adapter in module.modules_to_save and not is_head(key):
            pairs += weight_pairs(module.modules_to_save[adapter], module.original_module)
    return pairs


def weight_pairs(tuned: nn.Module, base: nn.Module) -> WeightPairs:
    """Return a model's trained weights with the base's values of the same names.

    Weights that the base lacks, such as a head's, are not scaled.
    """
    before = dict(base.named_parameters())
    return [(weight, before[name].detach().clone()) for name, weight in tuned.named_parameters() if name in before]
