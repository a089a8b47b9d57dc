"""Turn an attention into one that also attends to a prefix: keys and values that no token gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "peftkit_prefix_sdpa"
# the projection that gives keys, by family, with the share of its output that they are
_KEYS = (("key", 1), ("k_lin", 1), ("k", 1), ("k_proj", 1), ("c_attn", 0))
Prefix = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


def attentions(stack: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules of a stack that multiply queries with keys, in order."""
    for module in stack.modules():
        if hasattr(module, "scaling") and any(hasattr(module, key) for key, _ in _KEYS):
            yield module


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

    The source returns keys and values (batch, heads, prefix, width) and a mask (batch, 1, 1, prefix) of those that
    count, None: all; or nothing. Returns the attention implementation that the model had.
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
    keys, values, seen = prefix
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
    return sdpa_attention_forward(
        module,
        query,
        torch.cat([keys.to(key.dtype), key], dim=2),
        torch.cat([values.to(value.dtype), value], dim=2),
        attention_mask,
        is_causal=False,
        position_bias=position_bias,
        **kwargs,
    )


AttentionInterface.register(IMPLEMENTATION, prefix_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
