"""Turn an attention into one that also attends to a prefix: keys and values that no token gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "peftkit_prefix_sdpa"
# the projection that gives keys, by family, with the share of its output that they are
_KEYS = (("key", 1), ("k_lin", 1), ("k", 1), ("k_proj", 1), ("c_attn", 0))


class Prefix(NamedTuple):
    """Keys and values (batch, heads, prefix, width) of one attention.

    `seen` (batch, 1, 1, prefix) tells those that count, None: all; `gate` (batch, 1, queries or 1, 1) scales both keys
    and values, as each query sees them, None: by 1.
    """

    keys: torch.Tensor
    values: torch.Tensor
    seen: torch.Tensor | None = None
    gate: torch.Tensor | None = None


def is_attention(module: nn.Module) -> bool:
    """Tell whether a module multiplies queries with keys."""
    return hasattr(module, "scaling") and any(hasattr(module, key) for key, _ in _KEYS)


def attentions(stack: nn.Module) -> Iterator[nn.Module]:
    """Yield the attentions of a stack, in order."""
    return filter(is_attention, stack.modules())


def is_causal(stack: nn.Module) -> bool:
    """Tell whether a stack's tokens see none that come later."""
    return any(getattr(attention, "is_causal", False) for attention in attentions(stack))


def key_shape(attention: nn.Module) -> tuple[int, int]:
    """Return the number of key heads and the width of each."""
    for name, share in _KEYS:
        layer = getattr(attention, name, None)
        if layer is None:
            continue
        # GPT-2 computes queries, keys and values at once
        width = int(layer.out_features if share else attention.split_size)  # type: ignore[arg-type]
        for size in ("head_dim", "attention_head_size", "key_value_proj_dim"):
            if hasattr(attention, size):
                return width // int(getattr(attention, size)), int(getattr(attention, size))
    raise ValueError(f"{type(attention).__name__} names no head width that prefix tuning knows; try another method")


def give_prefix(attention: nn.Module, source: Callable[[torch.Tensor, torch.Tensor], Prefix | None]) -> str:
    """Let an attention ask `source`, with its own keys and values (batch, heads, tokens, width), for its prefix.

    Returns the attention implementation that the model had.
    """
    config: Any = attention.config
    before = str(config._attn_implementation)
    if before not in ("sdpa", "eager", IMPLEMENTATION):
        raise ValueError(f"prefix tuning works with sdpa attention, not with {before}; load the model with sdpa")
    config._attn_implementation_internal = IMPLEMENTATION
    attention.prefix_source = source  # type: ignore[assignment]
    return before


def take_prefix(attention: nn.Module, implementation: str) -> None:
    """Undo `give_prefix`."""
    if "prefix_source" in vars(attention):
        del attention.prefix_source
        attention.config._attn_implementation_internal = implementation  # type: ignore[union-attr]


def prefix_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' sdpa does, to the prefix too: each query sees all of it, at no distance."""
    source = vars(module).get("prefix_source")
    prefix: Prefix | None = None if source is None else source(key, value)
    if prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, is_causal=is_causal, position_bias=position_bias, **kwargs
        )
    keys, values, seen, gate = prefix
    keys, values, width = keys.to(key.dtype), values.to(value.dtype), value.shape[-1]
    gate = None if gate is None else gate.to(key.dtype)
    if gate is not None and gate.shape[2] == 1:
        keys, values, gate = keys * gate, values * gate, None
    elif (
        gate is not None
    ):  # a gate for each query: [query, gate query] reads [key, 0] of tokens, [0, key] of the prefix
        if kwargs.get("scaling") is None:
            kwargs["scaling"] = query.shape[-1] ** -0.5  # sdpa would take the doubled width's
        query = torch.cat([query, query * gate], dim=-1)
        keys, key = pad(keys, (key.shape[-1], 0)), pad(key, (0, key.shape[-1]))
        values, value = pad(values, (width, 0)), pad(value, (0, width))
    rows, queries, tokens, length = query.shape[0], query.shape[2], key.shape[2], keys.shape[2]
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    if attention_mask is None and causal and queries > 1:
        # aligned at the upper left, as sdpa does it: the cache of a longer key is not yet filled
        attention_mask = torch.ones(queries, tokens, dtype=torch.bool, device=key.device).tril()[None, None]
    if attention_mask is not None or seen is not None:
        if attention_mask is None:
            attention_mask = torch.ones(1, 1, queries, tokens, dtype=torch.bool, device=key.device)
        attention_mask = attention_mask[..., :tokens].expand(rows, -1, queries, -1)
        heads = attention_mask.shape[1]
        if attention_mask.dtype == torch.bool:
            front = torch.ones(rows, heads, queries, length, dtype=torch.bool, device=key.device)
            front = front if seen is None else front & seen
        else:
            front = attention_mask.new_zeros(rows, heads, queries, length)
            front = front if seen is None else front.masked_fill(~seen, torch.finfo(front.dtype).min)
        attention_mask = torch.cat([front, attention_mask], dim=-1)
    if position_bias is not None:
        position_bias = torch.cat([position_bias.new_zeros(*position_bias.shape[:-1], length), position_bias], dim=-1)
    states, _ = sdpa_attention_forward(
        module,
        query,
        torch.cat([keys, key], dim=2),
        torch.cat([values, value], dim=2),
        attention_mask,
        is_causal=False,
        position_bias=position_bias,
        **kwargs,
    )
    if gate is None:
        return states, None
    return states[..., :width] + gate.transpose(1, 2) * states[..., width:], None


AttentionInterface.register(IMPLEMENTATION, prefix_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
