"""Prefix tuning: keys and values beside those of every attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from peftkit.methods.soft_prompt.attention import Prefix, attentions, connect_prefix, disconnect_prefix, key_shape
from peftkit.methods.soft_prompt.layer import SoftPromptLayer, counts_positions, positions_of


class PrefixLayer(SoftPromptLayer):
    """Keys and values for every attention of a stack; a token's vector contains those of all attentions in turn."""

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        self._shapes: list[tuple[int, int]] = []
        self._recorded: list[torch.Tensor] | None = None
        self._written: dict[str, torch.Tensor] = {}  # by encoders, in the current forward pass
        self._targets: list[tuple[nn.Module, str]] = []  # in a list: they are no submodules of this layer
        for number, attention in enumerate(attentions(stack)):
            self._shapes.append(key_shape(attention))
            self._targets.append((attention, connect_prefix(attention, _Source(self, number))))
        self._counts_positions = counts_positions(stack)
        self._handles = [
            stack.register_forward_pre_hook(self._begin, with_kwargs=True),
            stack.register_forward_hook(self._end),
        ]
        if not self._shapes:
            raise ValueError(f"prefix tuning supports no attention of {type(stack).__name__}; use another method")

    @property
    def width(self) -> int:
        """The number of values of a virtual token, in all attentions together."""
        return sum(2 * heads * size for heads, size in self._shapes)

    def release(self) -> None:
        super().release()
        for attention, implementation in self._targets:
            disconnect_prefix(attention, implementation)

    @contextmanager
    def recording(self) -> Iterator[list[torch.Tensor]]:
        """Collect the attentions' own keys and values, for a batch of one example."""
        self._recorded = [torch.empty(0)] * len(self._shapes)
        try:
            yield self._recorded
        finally:
            self._recorded = None

    def prefix(self, number: int, key: torch.Tensor, value: torch.Tensor) -> Prefix | None:
        """Return the prefix of one attention for a batch with these own keys and values."""
        if self._recorded is not None:
            self._recorded[number] = torch.stack([key[0], value[0]]).detach().permute(2, 0, 1, 3).flatten(1)
            return None
        names = self.used_names()
        if not names:
            return None
        heads, size = self._shapes[number]
        start = sum(2 * heads * size for heads, size in self._shapes[:number])
        stop = start + 2 * heads * size

        def shaped(vectors: torch.Tensor) -> torch.Tensor:
            """(tokens, 2 heads size) to (2, heads, tokens, size)."""
            return vectors[:, start:stop].view(-1, 2, heads, size).permute(1, 2, 0, 3)

        prefixes = [shaped(self._written[name] if name in self._written else self.vectors(name)) for name in names]
        batch = len(key)
        both = torch.cat(prefixes, dim=2).unsqueeze(1).expand(-1, batch, -1, -1, -1)
        if self.example_names is None:
            return Prefix(both[0], both[1])
        # every example receives all prefixes, and sees its own
        lengths = torch.tensor([each.shape[2] for each in prefixes], device=key.device)
        owner = torch.repeat_interleave(torch.arange(len(prefixes), device=key.device), lengths)
        seen = self.prompt_numbers(names, batch, key.device)[:, None] == owner[None, :]
        return Prefix(both[0], both[1], seen[:, None, None, :])

    def _begin(
        self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Run encoders once for all layers, outside of what gradient checkpointing recomputes."""
        self._written = {name: self.vectors(name) for name in self.used_names() if name in self.soft_prompt_encoder}
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        needs_positions = self._counts_positions and positions is None and bool(self.used_names())
        if not needs_positions or mask is None or mask.dim() != 2:
            return args, kwargs
        tokens = next(
            each for each in (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if each is not None
        )
        return args, {**kwargs, "position_ids": positions_of(mask)[:, -tokens.shape[1] :]}

    def _end(self, stack: nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
        if not torch.is_grad_enabled():
            self._written = {}


class _Source:
    """Returns the prefix of one attention; an object, so that deepcopy and pickle follow it."""

    def __init__(self, layer: PrefixLayer, number: int) -> None:
        self.layer, self.number = layer, number

    def __call__(self, key: torch.Tensor, value: torch.Tensor) -> Prefix | None:
        return self.layer.prefix(self.number, key, value)
