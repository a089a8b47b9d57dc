"""Layers of mixes: LoRA beside projections, adapters behind pre-norm feed-forwards, and gates of every part."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from peftkit.methods.adapter_layers import ParallelLayer
from peftkit.methods.soft_prompt.layer import SoftPromptConfig, is_causal
from peftkit.methods.soft_prompt.prefix import Prefix, PrefixLayer


class Tokens:
    """The tokens that count in the means of one stack: those that the mask of its latest attention shows.

    The mask is the attention's, not the batch's, so that a layer which gradient checkpointing recomputes gets its own.
    """

    def __init__(self) -> None:
        self.seen: torch.Tensor | None = None  # (batch, tokens), None: all

    def mean(self, gates: torch.Tensor, examples: torch.Tensor | None) -> torch.Tensor:
        """Return the mean (batch, 1, 1) over tokens of gates (batch, tokens, 1) of these examples of the batch."""
        if self.seen is None:
            return gates.mean(dim=1, keepdim=True)
        seen = (self.seen if examples is None else self.seen[examples])[..., None]
        return (gates * seen).sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True).clamp(min=1)


class Gate(nn.Linear):
    """A part's factors in (0, 1), near one half at the start; of every token, or their mean over `tokens`."""

    def __init__(self, width: int, tokens: Tokens | None, count: int = 1) -> None:
        super().__init__(width, count)
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)
        self.tokens = tokens

    def forward(self, x: torch.Tensor, examples: torch.Tensor | None = None, number: int = 0) -> torch.Tensor:
        """Return the factors (batch, tokens or 1, 1) of a part with this input (batch, tokens, width).

        `number` chooses one of several gates; `examples` are those of the batch in the input, None: all.
        """
        weight, bias = self.weight[number : number + 1], self.bias[number : number + 1]
        gates = torch.sigmoid(functional.linear(x.to(weight.dtype), weight, bias).float())
        return gates if self.tokens is None else self.tokens.mean(gates, examples)


class GatedPrefixLayer(PrefixLayer):
    """A prefix with a gate at every attention of the stack, which reads the attention's input."""

    adapter_layer_names = (*PrefixLayer.adapter_layer_names, "soft_prompt_gate")

    def __init__(self, stack: nn.Module) -> None:
        super().__init__(stack)
        self.soft_prompt_gate = nn.ModuleDict()
        self.tokens = Tokens()
        self.is_causal = is_causal(stack)
        self._gates: dict[int, torch.Tensor] = {}  # of the current attention
        for number, attention in enumerate(self._attentions):
            names = list(inspect.signature(attention.forward).parameters)
            read = partial(self._read, number=number, argument_names=names)
            self._handles.append(attention.register_forward_pre_hook(read, with_kwargs=True))

    def add(self, name: str, config: SoftPromptConfig, read: int, vectors: torch.Tensor) -> None:
        super().add(name, config, read, vectors)
        self.soft_prompt_gate[name] = Gate(read, None if self.is_causal else self.tokens, len(self._attentions))

    def prefix(self, number: int, key: torch.Tensor, value: torch.Tensor) -> Prefix | None:
        prefix, gate = super().prefix(number, key, value), self._gates.pop(number, None)
        return None if prefix is None else prefix._replace(gate=gate)

    def _read(
        self,
        attention: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        number: int,
        argument_names: list[str],
    ) -> None:
        arguments = dict(zip(argument_names, args, strict=False)) | kwargs
        mask = arguments.get("mask", arguments.get("attention_mask"))  # (batch, 1, queries, keys), None: no mask
        self.tokens.seen = None if mask is None else mask[:, 0].any(dim=1)
        names = self.used_names()
        if not names or self.recorded is not None:
            return
        if self.example_names is None and len(names) > 1:
            raise ValueError(f"gated prefixes cannot be active together, as {', '.join(names)} are; activate one")
        states = arguments["hidden_states"]
        gates = torch.stack([self.soft_prompt_gate[name](states, number=number) for name in names])
        batch = torch.arange(len(states), device=states.device)
        owner = (
            0 if self.example_names is None else self.example_numbers(names, len(states), states.device).clamp(min=0)
        )
        self._gates[number] = gates[owner, batch].unsqueeze(1)


class LowRankLayer(ParallelLayer):
    """A frozen projection and, by name, the LoRA beside it (Hu et al. 2022, section 4.1)."""

    has_bias = False

    def add(self, adapter_name: str, config: Any) -> None:
        super().add(adapter_name, config.low_rank())
        nn.init.kaiming_uniform_(self.bottleneck_down[adapter_name].weight, a=5**0.5)


class QueryValueLayer(LowRankLayer):
    """GPT-2's one projection to queries, keys and values, with LoRA for queries and values."""

    def widths(self) -> tuple[int, int]:
        read, written = super().widths()
        return read, written // 3 * 2

    def _change(self, read: torch.Tensor, name: str, examples: torch.Tensor | None) -> torch.Tensor:
        query, value = super()._change(read, name, examples).chunk(2, dim=-1)
        return torch.cat([query, torch.zeros_like(query), value], dim=-1)


class BehindLayer(ParallelLayer):
    """A feed-forward after its norm, and the adapters behind it, which read its output plus residual."""

    def _read(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        assert self._norm_input is not None  # the norm has just run
        return self._norm_input + out
