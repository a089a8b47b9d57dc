"""Removal of layers from a pretrained model."""

from torch import nn
from transformers import PreTrainedModel

from peftkit.config import UserError, refusal


def keep_layers(model: PreTrainedModel, layers: list[int]) -> PreTrainedModel:
    """Keep only these layers of a model's stack, the initialization of a student (Sanh et al. 2019, section 2).

    Raises:
        UserError: the model has fewer layers, or lost attention heads in them.
    """
    if getattr(model.config, "pruned_heads", None):
        wrong = "model.keep_layers does not work with a model whose attention heads were pruned"
        raise UserError(refusal(wrong, "~model.keep_layers"))
    stacks = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList)]
    name, stack = max(stacks, key=lambda each: len(each[1]))
    if layers[-1] >= len(stack):
        wrong = f"model.keep_layers={layers}: the model has {len(stack)} layers, counted from 0"
        raise UserError(refusal(wrong, f"model.keep_layers=[{len(stack) - 1}]"))
    model.set_submodule(name, nn.ModuleList(stack[number] for number in layers))
    for number, layer in enumerate(model.get_submodule(name).children()):
        for part in layer.modules():
            if hasattr(part, "layer_idx"):
                part.layer_idx = number  # the index of its keys in a decoder's cache
    model.config.num_hidden_layers = len(layers)
    return model
