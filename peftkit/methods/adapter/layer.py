"""Layers that pass the output of a sub-layer through a bottleneck, or run a bottleneck beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from peftkit.compat.transformers import Conv1D
from peftkit.compat.tuner import TunerLayer
from peftkit.methods.adapter.config import BottleneckConfig


class BottleneckLayer(TunerLayer):
    """A frozen base followed by adapters, by name (Houlsby et al. 2019, figure 2).

    The base may be Linear, GPT-2's Conv1D, a bitsandbytes layer or a module of these: it is only called.
    """

    # an activation may have weights of its own, such as prelu
    adapter_layer_names = ("bottleneck_down", "bottleneck_activation", "bottleneck_up", "bottleneck_gate")
    other_param_names = ("bottleneck_dropout", "bottleneck_scaling")
    has_bias = True

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__(adapter_name)
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_activation = nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_gate = nn.ModuleDict()  # learned factors, set by mixes of methods (UniPELT)
        self.bottleneck_scaling: dict[str, float] = {}
        self.add(adapter_name, config)

    def add(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add a fresh adapter: its up projection is zero, so it changes nothing yet."""
        width_in, width_out = self.widths()
        bottleneck = config.bottleneck_dim or max(1, width_out // config.reduction_factor)
        down = nn.Linear(width_in, bottleneck, bias=self.has_bias)
        up = nn.Linear(bottleneck, width_out, bias=self.has_bias)
        nn.init.normal_(down.weight, std=config.init_std)
        for weight in (down.bias, up.weight, up.bias):
            if weight is not None:
                nn.init.zeros_(weight)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.bottleneck_dropout[adapter_name] = nn.Dropout(config.dropout)
        self.bottleneck_activation[adapter_name] = ACT2FN[config.activation]
        self.bottleneck_scaling[adapter_name] = config.scaling
        self.move_to_base(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def widths(self) -> tuple[int, int]:
        """Return the widths of an adapter's input and output: both are the base's output."""
        width = widths_of(_last_layer(self.get_base_layer()))[1]
        return width, width

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Return the base's output (batch, ..., width), changed by every active adapter in turn.

        `adapter_names`: the adapter of each example of the batch, "__base__" for none.
        """
        out = self.base_layer(x, *args, **kwargs)
        for name, examples in self._turns(adapter_names, out.device):
            out = self._changed(out, out, name, examples)
        return out

    def merge(self, *_: Any, **__: Any) -> None:
        raise ValueError("bottleneck adapters are not linear and cannot be merged into their base; keep them beside it")

    def unmerge(self) -> None:
        """Do nothing: these adapters are never merged."""

    def _turns(self, adapter_names: list[str] | None, device: torch.device) -> list[tuple[str, torch.Tensor | None]]:
        """Return the adapters to apply, in order, each with its examples of the batch; None: all."""
        if self.disable_adapters:
            return []
        if adapter_names is None:
            return [(name, None) for name in self.active_adapters if name in self.bottleneck_down]
        return [
            (name, torch.tensor([number for number, each in enumerate(adapter_names) if each == name], device=device))
            for name in dict.fromkeys(adapter_names)
            if name in self.bottleneck_down
        ]

    def _changed(self, out: torch.Tensor, read: torch.Tensor, name: str, examples: torch.Tensor | None) -> torch.Tensor:
        """Add the adapter's output for `read` to `out`."""
        change = self._change(read, name, examples).to(out.dtype)
        return out + change if examples is None else out.index_add(0, examples, change)

    def _change(self, read: torch.Tensor, name: str, examples: torch.Tensor | None) -> torch.Tensor:
        """Return the adapter's output for these examples of `read`, in the adapter's own precision."""
        down, up = self.bottleneck_down[name], self.bottleneck_up[name]
        x = self.cast(read if examples is None else read[examples], down.weight.dtype)
        hidden = self.bottleneck_dropout[name](self.bottleneck_activation[name](down(x)))
        change = up(hidden) * self.bottleneck_scaling[name]
        return change * self.bottleneck_gate[name](x, examples) if name in self.bottleneck_gate else change


class PostNormLayer(BottleneckLayer):
    """A frozen layer norm that ends a sub-layer, and the adapters that read its output (Pfeiffer et al. 2021)."""

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Return norm(x + change), where the change reads norm(x).

        The norm is given the feed-forward's output plus residual (batch, ..., width).
        """
        for name, examples in self._turns(adapter_names, x.device):
            x = self._changed(x, self.base_layer(x, *args, **kwargs), name, examples)
        return self.base_layer(x, *args, **kwargs)


class ParallelLayer(BottleneckLayer):
    """A frozen feed-forward and, by name, the adapters beside it, which read its residual.

    Where a norm precedes the feed-forward (GPT-2, Llama), they read the norm's input.
    """

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig, norm: nn.Module | None = None
    ) -> None:
        super().__init__(base_layer, adapter_name, config)
        self._norm_input: torch.Tensor | None = None
        self._handle = None if norm is None else norm.register_forward_pre_hook(self._remember)

    def widths(self) -> tuple[int, int]:
        """Return a linear base's own widths; those of a feed-forward are equal."""
        base = self.get_base_layer()
        return widths_of(base) if _has_widths(base) else super().widths()

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Return the base's output (batch, ..., width) plus the active adapters' outputs for the residual.

        BERT's feed-forward ends in a module called with (inner states, residual), which returns
        LayerNorm(dense(inner states) + residual). Adding to that residual is adding before residual and layer norm,
        which is what a parallel adapter does.
        """
        turns = self._turns(adapter_names, x.device)
        if args:
            read, *args_left = args
            residual = read
            for name, examples in turns:
                residual = self._changed(residual, read, name, examples)
            return self.base_layer(x, residual, *args_left, **kwargs)
        read = x if self._norm_input is None else self._norm_input
        self._norm_input = None
        out = self.base_layer(x, **kwargs)
        for name, examples in turns:
            out = self._changed(out, read, name, examples)
        return out

    def release(self) -> None:
        """Remove the hook on the norm, before the base is restored."""
        if self._handle is not None:
            self._handle.remove()

    def _remember(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._norm_input = inputs[0]


def _last_layer(base: nn.Module) -> nn.Module:
    """Return the layer with the width of the base's output: modules register layers in calling order."""
    linear = [layer for layer in base.modules() if _has_widths(layer)]
    if not linear:
        raise ValueError(
            f"an adapter needs a linear layer, but {type(base).__name__} has none; set target_modules to others"
        )
    return linear[-1]


def _has_widths(layer: nn.Module) -> bool:
    return isinstance(layer, Conv1D | nn.LayerNorm) or (
        hasattr(layer, "in_features") and hasattr(layer, "out_features")
    )


def widths_of(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[0], layer.normalized_shape[0]
    return layer.in_features, layer.out_features
