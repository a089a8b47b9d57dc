"""Frozen weights: whether a backbone has only these, their digest, and their casts to the compute precision."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import transformers
import xxhash
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftkit.compat.peft import computes_with_weight
from peftkit.compat.transformers import attention_implementation
from peftkit.compat.tuner import TunerLayer
from peftkit.models.pooling import stack_of

UNUSED = ("id2label", "label2id", "problem_type", "architectures", "_name_or_path", "dtype")  # settings of a backbone


def digest_of(model: Any) -> str:
    """Return the hash of a model's backbone: its frozen weights, its settings, and the code that computes it."""
    stack = stack_of(model)
    config = {name: value for name, value in stack.config.to_dict().items() if name not in UNUSED}
    kind, versions = type(stack), (torch.__version__, transformers.__version__)
    settings = [kind.__module__, kind.__qualname__, config, attention_implementation(stack.config), versions]
    found = xxhash.xxh3_128(json.dumps(settings, sort_keys=True, default=str).encode())
    trained = {name for name, weight in stack.named_parameters() if weight.requires_grad}
    for name, values in stack.state_dict().items():
        if name not in trained and isinstance(values, torch.Tensor):
            found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            found.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def is_frozen(model: Any) -> bool:
    """Return whether the backbone below the head is frozen, except a new pooler and a weighted sum of its layers."""
    stack = stack_of(model)
    above = {*mixes_of(stack), "pooler"}
    own = [weight for name, weight in stack.named_parameters() if name.partition(".")[0] not in above]
    return stack is not model and bool(own) and not any(weight.requires_grad for weight in own)


def mixes_of(stack: nn.Module) -> list[str]:
    """Return the names of weighted sums of layers: adapters that are children of the stack and read its states."""
    return [name for name, child in stack.named_children() if hasattr(child, "adapter_layer_names")]


@contextmanager
def cast_once(stack: nn.Module) -> Iterator[None]:
    """Let autocast cast each frozen weight once for all passes of this block, which compute no gradients.

    Else it casts them in each pass: it keeps casts of those weights only that require a gradient.
    """
    frozen = [each for each in stack.parameters() if each.is_floating_point() and not each.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


@contextmanager
def frozen_in(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Hold the frozen weights of linear layers in the precision to which autocast casts them in each step.

    The results are the same bits, and after the block the weights are. Weights are held that are in fp32 and that only
    the product of their own layer reads: not tied weights, nor those with which a method of PEFT computes.
    """
    excluded = {
        id(child)
        for layer in model.modules()
        if isinstance(layer, BaseTunerLayer) and not isinstance(layer, TunerLayer) and computes_with_weight(layer)
        for child in cast(nn.Module, layer).modules()
    }
    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    held: list[tuple[nn.Module, nn.Parameter]] = [
        (each, each.weight)
        for each in model.modules()
        if type(each) in (nn.Linear, Conv1D) and id(each) not in excluded
        if not each.weight.requires_grad and each.weight.dtype == torch.float32 and uses[id(each.weight)] == 1
    ]
    for layer, weight in held:
        layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    try:
        yield
    finally:
        for layer, weight in held:
            layer.weight = weight
