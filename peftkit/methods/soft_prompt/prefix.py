"""Prefix tuning: learned keys and values in every attention."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import pad

from peftkit.compat.transformers import (
    attention_implementation,
    register_sdpa_attention,
    sdpa_attention_forward,
    set_attention_implementation,
    uses_reentrant_checkpointing,
)
from peftkit.compat.tuner import check_values
from peftkit.methods.soft_prompt.layer import KEYS, SoftPromptLayer, attentions, positions_of

IMPLEMENTATION = "peftkit_prefix_sdpa"


class Prefix(NamedTuple):
    """Keys and values (batch, heads, prefix, head_dim) of one attention.

    `mask` (batch, 1, 1, prefix) is True for those to attend to, None: all; `gate` (batch, 1, queries or 1, 1) scales
    keys and values for each query, None: by 1.
    """

    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor | None = None
    gate: torch.Tensor | None = None


class PrefixLayer(SoftPromptLayer):
    """Keys and values for every attention of a stack; a token's vector contains those of all attentions in turn."""

    def __init__(self, stack: nn.Module) -> None:
        super().__init__(stack)
        self.recorded: dict[int, torch.Tensor] | None = None  # the text's keys and values by attention, of one example
        self._encoded: dict[str, torch.Tensor] = {}  # by adapter, in the current forward pass
        self._attentions: list[Any] = list(attentions(stack))  # in a list: they are not submodules of this layer
        self._original_implementations = [attention_implementation(attention.config) for attention in self._attentions]
        self._shapes = [_key_shape(attention) for attention in self._attentions]
        others = sorted({*self._original_implementations} - {"sdpa", "eager", IMPLEMENTATION})
        check_values(
            (not self._shapes, f"prefix tuning supports no attention of {type(stack).__name__}; use another method"),
            (
                bool(others),
                f"prefix tuning works with sdpa attention, not with {', '.join(others)}; load the model with sdpa",
            ),
        )
        for number, attention in enumerate(self._attentions):
            set_attention_implementation(attention.config, IMPLEMENTATION)
            attention.prefix_source = partial(self.prefix, number)
        self._handles = [
            stack.register_forward_pre_hook(self._run_encoders, with_kwargs=True),
            stack.register_forward_hook(self._clear_outputs),
        ]

    @property
    def vector_dim(self) -> int:
        """The dimension of a virtual token's vector: keys and values of all attentions."""
        return sum(2 * heads * size for heads, size in self._shapes)

    def remove_hooks(self) -> None:
        super().remove_hooks()
        for attention, implementation in zip(self._attentions, self._original_implementations, strict=True):
            del attention.prefix_source
            set_attention_implementation(attention.config, implementation)

    def prefix(self, number: int, key: torch.Tensor, value: torch.Tensor) -> Prefix | None:
        """Return the prefix of one attention for a batch with these keys and values of the text."""
        if self.recorded is not None:
            self.recorded[number] = torch.stack([key[0], value[0]]).detach().permute(2, 0, 1, 3).flatten(1)
            return None
        names = self.active_names()
        if not names:
            return None
        heads, size = self._shapes[number]
        start = sum(2 * heads * size for heads, size in self._shapes[:number])
        vectors = [self._encoded[name] if name in self._encoded else self.vectors(name) for name in names]
        both = torch.cat([each[:, start : start + 2 * heads * size] for each in vectors])
        # (tokens, 2 heads size) to (2, batch, heads, tokens, size)
        both = both.view(-1, 2, heads, size).permute(1, 2, 0, 3).unsqueeze(1).expand(-1, key.shape[0], -1, -1, -1)
        if self.example_names is None:
            return Prefix(both[0], both[1])
        # every example receives all prefixes; the mask shows only its own
        index = [number for number, each in enumerate(vectors) for _ in range(len(each))]
        mask = self.adapter_indices(names, len(key), key.device)[:, None] == torch.tensor(index, device=key.device)
        return Prefix(both[0], both[1], mask[:, None, None, :])

    def _run_encoders(
        self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Run encoders once for all layers, outside of what gradient checkpointing recomputes.

        Reentrant checkpointing runs backward for each layer by itself, which frees the graph that layers would share:
        then every attention runs the encoders.
        """
        names, mask = self.active_names(), kwargs.get("attention_mask")
        shared = [] if uses_reentrant_checkpointing(stack) else names
        self._encoded = {name: self.vectors(name) for name in shared if name in self.soft_prompt_encoder}
        needs_positions = self._counts_positions and kwargs.get("position_ids") is None and bool(names)
        if not needs_positions or mask is None or mask.dim() != 2:
            return args, kwargs
        texts = (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
        tokens = next(each for each in texts if each is not None)
        return args, {**kwargs, "position_ids": positions_of(mask)[:, -tokens.shape[1] :]}

    def _clear_outputs(self, stack: nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
        if not torch.is_grad_enabled():
            self._encoded = {}


def prefix_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' sdpa does, also to the whole prefix, without relative position."""
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
    value_dim = value.shape[-1]
    if gate is not None:  # per query: [query, gate query] times [key, 0] of tokens and [0, key] of the prefix
        kwargs["scaling"] = kwargs.get("scaling") or query.shape[-1] ** -0.5  # not that of the doubled dimension
        query = torch.cat([query, query * gate], dim=-1)
        keys, key = pad(keys, (key.shape[-1], 0)), pad(key, (0, key.shape[-1]))
        values, value = pad(values, (value_dim, 0)), pad(value, (0, value_dim))
    key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
    states, _ = sdpa_attention_forward(module, query, key, value, mask, is_causal=False, position_bias=bias, **kwargs)
    return states if gate is None else states[..., :value_dim] + gate.transpose(1, 2) * states[..., value_dim:], None


def _prefixed_mask(
    mask: torch.Tensor | None, prefix: Prefix, query: torch.Tensor, key: torch.Tensor, is_causal: bool
) -> torch.Tensor | None:
    """Return the mask (batch, heads, queries, prefix and tokens), None where each query attends to all."""
    batch, queries, tokens = query.shape[0], query.shape[2], key.shape[2]
    is_causal = is_causal and queries > 1
    if mask is None:
        if not is_causal and prefix.mask is None:
            return None
        mask = torch.ones(1, 1, queries, tokens, dtype=torch.bool, device=key.device)
        # aligned at the upper left, as in sdpa: the cache of a longer key is not yet filled
        mask = mask.tril() if is_causal else mask
    mask = mask[..., :tokens].expand(batch, -1, queries, -1)
    visible, masked = (True, False) if mask.dtype == torch.bool else (0.0, torch.finfo(mask.dtype).min)
    prefix_mask = mask.new_full((batch, mask.shape[1], queries, prefix.keys.shape[2]), visible)
    prefix_mask = prefix_mask if prefix.mask is None else prefix_mask.masked_fill(~prefix.mask, masked)
    return torch.cat([prefix_mask, mask], dim=-1)


def _key_shape(attention: Any) -> tuple[int, int]:
    """Return the number of key heads and the dimension of each."""
    names = ("head_dim", "attention_head_size", "key_value_proj_dim")
    head_dim = next((int(getattr(attention, name)) for name in names if hasattr(attention, name)), None)
    if head_dim is None:
        raise ValueError(f"prefix tuning finds no head dimension in {type(attention).__name__}; use another method")
    key = next(name for name in KEYS if getattr(attention, name, None) is not None)
    key_dim = attention.split_size if key == "c_attn" else getattr(attention, key).out_features
    return key_dim // head_dim, head_dim


register_sdpa_attention(IMPLEMENTATION, prefix_attention)
