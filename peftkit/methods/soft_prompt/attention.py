"""Attention over a prefix: keys and values that come from no token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import pad

from peftkit.compat.transformers import (
    attention_implementation,
    register_sdpa_attention,
    sdpa_attention_forward,
    set_attention_implementation,
)

IMPLEMENTATION = "peftkit_prefix_sdpa"
# names of the projection to keys; GPT-2's c_attn computes queries, keys and values at once
_KEYS = ("key", "k_lin", "k", "k_proj", "c_attn")


class Prefix(NamedTuple):
    """Keys and values (batch, heads, prefix, width) of one attention.

    `seen` (batch, 1, 1, prefix) is the mask of those that count, None: all; `gate` (batch, 1, queries or 1, 1) scales
    keys and values for each query, None: by 1.
    """

    keys: torch.Tensor
    values: torch.Tensor
    seen: torch.Tensor | None = None
    gate: torch.Tensor | None = None


def is_attention(module: nn.Module) -> bool:
    """Return whether a module multiplies queries with keys."""
    return hasattr(module, "scaling") and any(hasattr(module, key) for key in _KEYS)


def attentions(stack: nn.Module) -> Iterator[nn.Module]:
    """Yield the attentions of a stack, in order."""
    return filter(is_attention, stack.modules())


def is_causal(stack: nn.Module) -> bool:
    """Return whether a stack's tokens attend to no later ones."""
    return any(getattr(attention, "is_causal", False) for attention in attentions(stack))


def key_shape(attention: nn.Module) -> tuple[int, int]:
    """Return the number of key heads and the width of each."""
    for name in _KEYS:
        layer = getattr(attention, name, None)
        if layer is None:
            continue
        width = int(attention.split_size if name == "c_attn" else layer.out_features)  # type: ignore[arg-type]
        for size in ("head_dim", "attention_head_size", "key_value_proj_dim"):
            if hasattr(attention, size):
                return width // int(getattr(attention, size)), int(getattr(attention, size))
    raise ValueError(f"prefix tuning finds no width of heads in {type(attention).__name__}; use another method")


def connect_prefix(attention: nn.Module, source: Callable[[torch.Tensor, torch.Tensor], Prefix | None]) -> str:
    """Let an attention get its prefix from `source`, called with its own keys and values (batch, heads, tokens, width).

    Returns the attention implementation that the model had.
    """
    config: Any = attention.config
    before = attention_implementation(config)
    if before not in ("sdpa", "eager", IMPLEMENTATION):
        raise ValueError(f"prefix tuning works with sdpa attention, not with {before}; load the model with sdpa")
    set_attention_implementation(config, IMPLEMENTATION)
    attention.prefix_source = source  # type: ignore[assignment]
    return before


def disconnect_prefix(attention: nn.Module, implementation: str) -> None:
    """Undo `connect_prefix`."""
    if "prefix_source" in vars(attention):
        del attention.prefix_source
        set_attention_implementation(attention.config, implementation)  # type: ignore[arg-type]


def prefix_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' sdpa does, to the prefix too: each query sees all of it, at no distance."""
    source = vars(module).get("prefix_source")
    prefix: Prefix | None = None if source is None else source(key, value)
    if prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    is_causal, bias = kwargs.pop("is_causal", None), kwargs.pop("position_bias", None)
    is_causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    mask = _prefixed_mask(attention_mask, prefix, query, key, is_causal)
    if bias is not None:
        bias = torch.cat([bias.new_zeros(*bias.shape[:-1], prefix.keys.shape[2]), bias], dim=-1)
    keys, values = prefix.keys.to(key.dtype), prefix.values.to(value.dtype)
    gate = None if prefix.gate is None else prefix.gate.to(key.dtype)
    if gate is not None and gate.shape[2] == 1:
        keys, values, gate = keys * gate, values * gate, None
    width = value.shape[-1]
    if gate is not None:  # of each query: [query, gate query] reads [key, 0] of tokens and [0, key] of the prefix
        if kwargs.get("scaling") is None:
            kwargs["scaling"] = query.shape[-1] ** -0.5  # sdpa would take that of the doubled width
        query = torch.cat([query, query * gate], dim=-1)
        keys, key = pad(keys, (key.shape[-1], 0)), pad(key, (0, key.shape[-1]))
        values, value = pad(values, (width, 0)), pad(value, (0, width))
    key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
    states, _ = sdpa_attention_forward(module, query, key, value, mask, is_causal=False, position_bias=bias, **kwargs)
    if gate is None:
        return states, None
    return states[..., :width] + gate.transpose(1, 2) * states[..., width:], None


def _prefixed_mask(
    mask: torch.Tensor | None, prefix: Prefix, query: torch.Tensor, key: torch.Tensor, is_causal: bool
) -> torch.Tensor | None:
    """Return the mask (batch, heads, queries, prefix and tokens), None where each query sees everything."""
    batch, queries, tokens, length = query.shape[0], query.shape[2], key.shape[2], prefix.keys.shape[2]
    if mask is None and is_causal and queries > 1:
        # aligned at the upper left, as in sdpa: the cache of a longer key is not yet filled
        mask = torch.ones(queries, tokens, dtype=torch.bool, device=key.device).tril()[None, None]
    if mask is None and prefix.seen is None:
        return None
    if mask is None:
        mask = torch.ones(1, 1, queries, tokens, dtype=torch.bool, device=key.device)
    mask = mask[..., :tokens].expand(batch, -1, queries, -1)
    shape = (batch, mask.shape[1], queries, length)
    if mask.dtype == torch.bool:
        front = torch.ones(shape, dtype=torch.bool, device=key.device)
        front = front if prefix.seen is None else front & prefix.seen
    else:
        front = mask.new_zeros(shape)
        front = front if prefix.seen is None else front.masked_fill(~prefix.seen, torch.finfo(front.dtype).min)
    return torch.cat([front, mask], dim=-1)


register_sdpa_attention(IMPLEMENTATION, prefix_attention)
