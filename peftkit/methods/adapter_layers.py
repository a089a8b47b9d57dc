"""Layers that pass the output of a sub-layer through a bottleneck, or run a bottleneck beside it."""

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig
from torch import nn
from transformers.activations import ACT2FN

from peftkit.compat.peft import peft_type
from peftkit.compat.transformers import Conv1D
from peftkit.compat.tuner import TunerLayer, check_values
from peftkit.config.families import family_of

KINDS = ("houlsby", "pfeiffer", "parallel")


@dataclass
class BottleneckConfig(PeftConfig):
    """A bottleneck adapter: scaling * up(activation(down(x))), two small layers whose output is added to a sub-layer's.

    Args:
        kind: houlsby, behind attention and behind the feed-forward, before residual and layer norm (Houlsby et al.
            2019, section 2.1; they train the layer norms too, in BERT modules_to_save=["LayerNorm"]); pfeiffer, behind
            the feed-forward alone, reading the output of residual and layer norm (Pfeiffer et al. 2021, figure 5);
            parallel, beside the feed-forward, reading its residual (He et al. 2022, table 1).
        bottleneck_dim: the width between both layers; None: the sub-layer's width divided by `reduction_factor`.
        reduction_factor: used where `bottleneck_dim` is None.
        activation: a name of transformers' ACT2FN.
        scaling: factor of the adapter's output; He et al. 2022 use 4 for their scaled parallel adapter.
        dropout: probability, between activation and up projection.
        init_std: standard deviation of the down projection at the start. The up projection starts at zero, so that a
            fresh adapter equals its base, where Houlsby et al. start both near zero and so only near the base.
        layers: indices of the layers that get adapters; AdapterDrop leaves out the lower ones (Rücklé et al. 2021). In
            T5 encoder and decoder each count from 0. None: all layers.
        target_modules: a regular expression or names of modules; None: those of the model's family.
        exclude_modules: modules that get no adapter although they are targets.
        modules_to_save: modules that train whole and are saved with the adapter, such as a head.
        trainable_token_indices: ids of tokens whose embedding rows train and are saved, or such ids by the name of the
            layer; the other rows stay unchanged.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: str = "houlsby"
    bottleneck_dim: int | None = None
    reduction_factor: int = 16
    activation: str = "gelu"
    scaling: float = 1.0
    dropout: float = 0.0
    init_std: float = 1e-2
    layers: list[int] | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("BOTTLENECK")
        size = self.bottleneck_dim
        check_values(
            (self.kind not in KINDS, f"kind={self.kind} is unknown; choose one of {', '.join(KINDS)}"),
            (
                self.activation not in ACT2FN,
                f"activation={self.activation} is unknown; choose one of {', '.join(sorted(ACT2FN))}",
            ),
            (size is not None and size < 1, f"bottleneck_dim={size} leaves no adapter; set 1 or more"),
            (self.reduction_factor < 1, f"reduction_factor={self.reduction_factor} divides the width; set 1 or more"),
            (not 0 <= self.dropout < 1, f"dropout={self.dropout} is a probability; set it in [0, 1)"),
            # with both projections at zero, neither would get a gradient
            (self.init_std <= 0, f"init_std={self.init_std} keeps the adapter from learning; set it above 0"),
        )
        # sorted, so that equivalent configs are saved alike
        self.layers = self.layers and sorted(self.layers)
        if not isinstance(self.target_modules, str):
            self.target_modules = self.target_modules and sorted(self.target_modules)

    def places(self, model_type: str) -> str:
        """Return the regular expression of the modules that get an adapter.

        Raises:
            ValueError: there is no record of the family: the user must name the modules.
        """
        family = family_of(model_type)
        if family is None:
            raise ValueError(
                f"peftkit knows no modules for adapters in {model_type}; set target_modules=[...] "
                "to the modules to adapt, such as the output projections of attention and feed-forward"
            )
        return family.modules.of_adapter(self.kind)


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
        """Return the widths of an adapter's input and output: both are the base's output.

        That is the output of its last layer: modules register layers in calling order.
        """
        base = self.get_base_layer()
        found = [widths for layer in base.modules() if (widths := widths_of(layer))]
        if not found:
            raise ValueError(
                f"an adapter needs a linear layer, but {type(base).__name__} has none; set target_modules to others"
            )
        return found[-1][1], found[-1][1]

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Return the base's output (batch, ..., width), changed by every active adapter in turn.

        `adapter_names`: the adapter of each example of the batch, "__base__" for none.
        """
        out = self.base_layer(x, *args, **kwargs)
        for name, examples in self._turns(adapter_names, out.device):
            out = self._changed(out, self._read(x, out), name, examples)
        return out

    def _read(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Return what an adapter reads, of the base's input, and its output as changed by the adapters before."""
        return out

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
        down = self.bottleneck_down[name]
        x = self.cast(read if examples is None else read[examples], down.weight.dtype)
        hidden = self.bottleneck_dropout[name](self.bottleneck_activation[name](down(x)))
        change = self.bottleneck_up[name](hidden) * self.bottleneck_scaling[name]
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
    """A frozen feed-forward or projection and, by name, the adapters beside it, which read its residual or input.

    Where a norm precedes the feed-forward (GPT-2, Llama), they read the norm's input.
    """

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig, norm: nn.Module | None = None
    ) -> None:
        super().__init__(base_layer, adapter_name, config)
        self._norm_input: torch.Tensor | None = None
        if norm is not None:
            self._handles.append(norm.register_forward_pre_hook(self._remember))

    def widths(self) -> tuple[int, int]:
        """Return a linear base's own widths; those of a feed-forward are equal."""
        return widths_of(self.get_base_layer()) or super().widths()

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Return the base's output (batch, ..., width) plus the active adapters' outputs for the residual.

        BERT's feed-forward ends in a module called with (inner states, residual), which returns
        LayerNorm(dense(inner states) + residual). Adding to that residual is adding before residual and layer norm,
        which is what a parallel adapter does.
        """
        if args:
            residual, *args_left = args
            for name, examples in self._turns(adapter_names, x.device):
                residual = self._changed(residual, args[0], name, examples)
            return self.base_layer(x, residual, *args_left, **kwargs)
        out = super().forward(x, adapter_names=adapter_names, **kwargs)
        self._norm_input = None
        return out

    def _read(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return x if self._norm_input is None else self._norm_input

    def _remember(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._norm_input = inputs[0]


def widths_of(layer: nn.Module) -> tuple[int, int] | None:
    """Return the widths of a layer's input and output, None where it has none."""
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[0], layer.normalized_shape[0]
    return (layer.in_features, layer.out_features) if hasattr(layer, "out_features") else None  # type: ignore[return-value]
