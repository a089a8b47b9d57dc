"""Attention heads: masks over them, and models with other numbers of heads in each layer.

transformers has no such models: config.json records the removed heads, and `pruned_class` removes them from a model
before its weights are read. Its own `from_pretrained` stops at the shapes of the weights.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from peftkit.compat.transformers import Conv1D
from peftkit.config import UserError, refusal
from peftkit.config.families import Attention, family_of

Removed = Mapping[str, Sequence[int]]  # by layer, the heads that are removed, counted in the model that has all


@dataclass(frozen=True)
class AttentionLayer:
    """One attention of a model.

    Queries that share keys and values are one head here, since they can only be removed together.

    Args:
        name: without the name of the base, so that it is the same below every head of a task.
        width: of the queries of a head.
        key_width: of its keys and values.
        heads: their number.
    """

    name: str
    module: Any
    names: Attention
    width: int
    key_width: int
    heads: int

    @property
    def output(self) -> Any:
        """The projection that reads the outputs of all heads, (batch, tokens, heads * width)."""
        return self.module.get_submodule(self.names.output)


def attention_layers(model: Any) -> list[AttentionLayer]:
    """Return the attentions of a model in the order of its modules.

    Raises:
        UserError: the family has no record of their names.
    """
    family = family_of(model.config.model_type)
    if family is None or family.attention is None:
        wrong = f"the names of the attention heads of {model.config.model_type} are not known"
        raise UserError(refusal(wrong, "model=bert", "model=gpt2", "model=t5"))
    names, found = family.attention, []
    for name, module in model.named_modules():
        if re.fullmatch(family.modules.attention_output, name):
            parent = name.removesuffix(f".{names.output}")
            attention = model.get_submodule(parent)
            width = attrgetter(names.head_size)(attention)
            values = _size(attention.get_submodule(names.inputs[-1]), 0)
            queries = _size(module, 1)
            heads = (queries if len(names.inputs) == 1 else values) // width
            own = parent.removeprefix(f"{model.base_model_prefix}.")
            found.append(AttentionLayer(own, attention, names, queries // heads, width, heads))
    return found


@contextmanager
def masked_heads(layers: Sequence[AttentionLayer], masks: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Multiply the output of each head by its factor; `masks` has those (heads,) of each layer."""

    def multiply(layer: AttentionLayer) -> Any:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            states, *others = inputs
            return states * masks[layer.name].to(states.device).repeat_interleave(layer.width), *others

        return layer.output.register_forward_pre_hook(hook)

    handles = [multiply(layer) for layer in layers if layer.name in masks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def pruned_class(model_class: Any, config: PretrainedConfig) -> Any:
    """Return the class that loads a model with the heads that its config keeps; the given one where it keeps all."""
    removed: Removed | None = getattr(config, "pruned_heads", None)
    if not removed:
        return model_class

    @wraps(model_class.__init__)
    def build(self: Any, *arguments: Any, **settings: Any) -> None:
        model_class.__init__(self, *arguments, **settings)
        _slice(self, removed)

    members = {"__init__": build, "__module__": model_class.__module__}
    # of the same name, by which transformers chooses the loss and which config.json records
    return type(model_class.__name__, (model_class,), members)


def remove_heads(model: Any, removed: Removed) -> None:
    """Remove heads from a model by slicing its projections, and record them in its config.

    Args:
        removed: counted in this model, which may have lost heads before.

    Raises:
        ValueError: a layer would have no head left.
    """
    before: Removed = getattr(model.config, "pruned_heads", None) or {}
    record = {name: [*heads] for name, heads in before.items()}
    for layer in attention_layers(model):
        gone = set(before.get(layer.name, ()))
        kept = [number for number in range(layer.heads + len(gone)) if number not in gone]
        lost = [kept[number] for number in removed.get(layer.name, ())]
        if len(lost) == layer.heads:
            raise ValueError(f"{layer.name} would have no head left")
        if lost:
            record[layer.name] = sorted([*gone, *lost])
    _slice(model, removed)
    model.config.pruned_heads = record


@torch.no_grad()
def _slice(model: PreTrainedModel, removed: Removed) -> None:
    layers = attention_layers(model)
    if layers[0].names.position_biases is not None:
        _separate_position_biases(layers)
    for layer in layers:
        gone = set(removed.get(layer.name, ()))
        kept = [head for head in range(layer.heads) if head not in gone]
        if gone:
            _slice_layer(layer, kept)


def _slice_layer(layer: AttentionLayer, kept: list[int]) -> None:
    names, module = layer.names, layer.module
    queries, keys = _columns(kept, layer.width), _columns(kept, layer.key_width)
    if len(names.inputs) == 1:  # queries, keys and values side by side
        offset = layer.heads * layer.width
        joined = torch.cat([queries, offset + queries, 2 * offset + queries])
        _select(module.get_submodule(names.inputs[0]), joined, 0)
    else:
        for name, columns in zip(names.inputs, (queries, keys, keys), strict=True):
            _select(module.get_submodule(name), columns, 0)
    _select(layer.output, queries, 1)
    if names.position_biases is not None and hasattr(module, names.position_biases):
        biases = getattr(module, names.position_biases)
        biases.weight = nn.Parameter(biases.weight[:, kept].clone(), requires_grad=biases.weight.requires_grad)
        biases.embedding_dim = len(kept)
    for path, size in ((names.heads, len(kept)), (names.width, len(queries))):
        if path is not None:
            owner, _, attribute = path.rpartition(".")
            setattr(module.get_submodule(owner), attribute, size)


def _columns(kept: list[int], width: int) -> torch.Tensor:
    """Return the indices of the columns of heads."""
    return (torch.tensor(kept)[:, None] * width + torch.arange(width)).flatten()


def _size(projection: Any, axis: int) -> int:
    """Return the number of outputs (axis 0) or inputs (axis 1) of a linear layer or a Conv1D."""
    return int(projection.weight.shape[1 - axis if isinstance(projection, Conv1D) else axis])


def _select(projection: Any, columns: torch.Tensor, axis: int) -> None:
    """Keep these outputs (axis 0) or inputs (axis 1) of a linear layer or a Conv1D."""
    is_transposed, weight = isinstance(projection, Conv1D), projection.weight
    columns = columns.to(weight.device)
    chosen = weight.index_select(1 - axis if is_transposed else axis, columns)
    projection.weight = nn.Parameter(chosen.contiguous(), requires_grad=weight.requires_grad)
    if axis == 0 and projection.bias is not None:
        projection.bias = nn.Parameter(projection.bias[columns].clone(), requires_grad=projection.bias.requires_grad)
    setattr(projection, (("nf", "nx") if is_transposed else ("out_features", "in_features"))[axis], len(columns))


def _separate_position_biases(layers: Sequence[AttentionLayer]) -> None:
    """Give each of T5's self-attentions its own position biases, which those of the first layer are for all.

    Every attention computes the biases of its own heads in place of the ones of its stack.
    """
    shared: torch.Tensor | None = None
    name, own = str(layers[0].names.position_biases), [each for each in layers if each.name.endswith("SelfAttention")]
    if all(hasattr(each.module, name) for each in own):
        return  # heads of this model were removed before
    for layer in layers:
        module = layer.module
        module.register_forward_pre_hook(_drop_shared_biases, with_kwargs=True)
        if hasattr(module, name):
            shared = getattr(module, name).weight
        elif layer in own and shared is not None:
            biases = nn.Embedding(*shared.shape, _weight=shared.detach().clone())
            biases.weight.requires_grad_(shared.requires_grad)
            setattr(module, name, biases)
            module.has_relative_attention_bias = True


def _drop_shared_biases(
    _: nn.Module, inputs: tuple[Any, ...], settings: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return inputs, {**settings, "position_bias": None}
