"""Turn a projection into one whose output passes through a bottleneck with a skip around it."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from peftkit.methods.adapter.config import BottleneckConfig


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A frozen base layer and, by name, the two trainable layers of each adapter (Houlsby et al. 2019, figure 2).

    The base may be Linear, GPT-2's Conv1D or a bitsandbytes layer: it is only called.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_scaling", "bottleneck_dropout", "bottleneck_activation")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.bottleneck_activation = nn.ModuleDict()
        self.bottleneck_scaling: dict[str, float] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.add(adapter_name, config)

    def add(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add a fresh adapter: its up projection is zero, so it changes nothing yet."""
        width = _out_features(self.get_base_layer())
        bottleneck = config.bottleneck_dim or max(1, width // config.reduction_factor)
        down, up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.normal_(down.weight, std=config.init_std)
        for weight in (down.bias, up.weight, up.bias):
            nn.init.zeros_(weight)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.bottleneck_dropout[adapter_name] = nn.Dropout(config.dropout)
        self.bottleneck_activation[adapter_name] = ACT2FN[config.activation]
        self.bottleneck_scaling[adapter_name] = config.scaling
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the base's output (..., width), changed by every active adapter in turn."""
        out = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return out
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                down, up = self.bottleneck_down[name], self.bottleneck_up[name]
                hidden = self.bottleneck_activation[name](down(out.to(down.weight.dtype)))
                change = up(self.bottleneck_dropout[name](hidden)) * self.bottleneck_scaling[name]
                out = out + change.to(out.dtype)
        return out

    def merge(self, *_: Any, **__: Any) -> None:
        raise ValueError("bottleneck adapters are not linear and cannot be merged into their base; keep them beside it")

    def unmerge(self) -> None:
        return


def _out_features(layer: nn.Module) -> int:
    if isinstance(layer, Conv1D):
        return int(layer.nf)
    if hasattr(layer, "out_features"):
        return int(layer.out_features)
    raise ValueError(f"an adapter sits behind a linear layer, not behind {type(layer).__name__}; set target_modules")
