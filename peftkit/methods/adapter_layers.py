"""Layers that pass the output of a sub-layer through a bottleneck, or run a bottleneck parallel to it."""

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

ADAPTER_KINDS = ("houlsby", "pfeiffer", "parallel")


@dataclass
class BottleneckConfig(PeftConfig):
    """A bottleneck adapter: scaling * up(activation(down(x))), two small layers whose output is added to a sub-layer's.

    Args:
        kind: houlsby, after attention and after the feed-forward, before residual and layer norm (Houlsby et al.
            2019, section 2.1; they train the layer norms too, in BERT modules_to_save=["LayerNorm"]); pfeiffer, after
            the feed-forward only, with the output of residual and layer norm as input (Pfeiffer et al. 2021, figure 5);
            parallel to the feed-forward, with its residual as input (He et al. 2022, table 1).
        bottleneck_dim: the bottleneck dimension; None: the sub-layer's output dimension divided by `reduction_factor`.
        reduction_factor: used where `bottleneck_dim` is None.
        activation: a name of transformers' ACT2FN.
        scaling: factor of the adapter's output; He et al. 2022 use 4 for their scaled parallel adapter.
        dropout: probability, between activation and up projection.
        init_std: standard deviation of the initial down projection. The up projection starts at zero, so that the
            initial model equals its base; Houlsby et al. start both near zero, so that it is near its base.
        layers: indices of the layers that get adapters; AdapterDrop omits the lower ones (Rücklé et al. 2021). In
            T5 encoder and decoder each count from 0. None: all layers.
        target_modules: a regular expression or names of modules; None: those of the model's family.
        exclude_modules: modules that get no adapter although they are targets.
        modules_to_save: modules that are fully trained and saved with the adapter, such as a head.
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
            (self.kind not in ADAPTER_KINDS, f"kind={self.kind} is unknown; choose one of {', '.join(ADAPTER_KINDS)}"),
            (
                self.activation not in ACT2FN,
                f"activation={self.activation} is unknown; choose one of {', '.join(sorted(ACT2FN))}",
            ),
            (size is not None and size < 1, f"bottleneck_dim={size} leaves no adapter; set 1 or more"),
            (
                self.reduction_factor < 1,
                f"reduction_factor={self.reduction_factor} divides the output dimension; set 1 or more",
            ),
            (not 0 <= self.dropout < 1, f"dropout={self.dropout} is a probability; set it in [0, 1)"),
            # with both projections at zero, neither would get a gradient
            (self.init_std <= 0, f"init_std={self.init_std} gives the adapter no gradient; set it above 0"),
        )
        # sorted, so that equivalent configs are saved identically
        self.layers = self.layers and sorted(self.layers)
        if not isinstance(self.target_modules, str):
            self.target_modules = self.target_modules and sorted(self.target_modules)

    def default_targets(self, model_type: str) -> str:
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
    """A frozen base module and the adapters after it, by name (Houlsby et al. 2019, figure 2).

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
        """Add a newly initialized adapter: its up projection is zero, so it changes nothing yet."""
        input_dim, output_dim = self.dims()
        bottleneck = config.bottleneck_dim or max(1, output_dim // config.reduction_factor)
        down = nn.Linear(input_dim, bottleneck, bias=self.has_bias)
        up = nn.Linear(bottleneck, output_dim, bias=self.has_bias)
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

    def dims(self) -> tuple[int, int]:
        """Return the input and output dimension of an adapter: both are the base's output dimension.

        That is the one of its last layer: modules register layers in calling order.
        """
        base = self.get_base_layer()
        found = [dims for layer in base.modules() if (dims := dims_of(layer))]
        if not found:
            raise ValueError(
                f"an adapter needs a linear layer, but {type(base).__name__} has none; set target_modules to others"
            )
        return found[-1][1], found[-1][1]

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Return the base's output (batch, ..., dim), changed by every active adapter in turn.

        `adapter_names`: the adapter of each example of the batch, "__base__" for none.
        """
        out = self.base_layer(x, *args, **kwargs)
        for name, examples in self._active(adapter_names, out.device):
            out = self._add_delta(out, self._adapter_input(x, out), name, examples)
        return out

    def _adapter_input(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Return an adapter's input, of the base's input and of its output as changed by the previous adapters."""
        return out

    def _active(self, adapter_names: list[str] | None, device: torch.device) -> list[tuple[str, torch.Tensor | None]]:
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

    def _add_delta(
        self, out: torch.Tensor, inputs: torch.Tensor, name: str, examples: torch.Tensor | None
    ) -> torch.Tensor:
        """Add the adapter's output for `inputs` to `out`."""
        delta = self._delta(inputs, name, examples).to(out.dtype)
        return out + delta if examples is None else out.index_add(0, examples, delta)

    def _delta(self, inputs: torch.Tensor, name: str, examples: torch.Tensor | None) -> torch.Tensor:
        """Return the adapter's output for these examples of `inputs`, in the adapter's own precision."""
        down = self.bottleneck_down[name]
        x = self.cast(inputs if examples is None else inputs[examples], down.weight.dtype)
        hidden = self.bottleneck_dropout[name](self.bottleneck_activation[name](down(x)))
        delta = self.bottleneck_up[name](hidden) * self.bottleneck_scaling[name]
        return delta * self.bottleneck_gate[name](x, examples) if name in self.bottleneck_gate else delta


class PostNormLayer(BottleneckLayer):
    """A frozen layer norm that ends a sub-layer, and the adapters with its output as input (Pfeiffer et al. 2021)."""

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Return norm(x + adapter(norm(x))).

        x is the feed-forward's output plus residual (batch, ..., dim).
        """
        for name, examples in self._active(adapter_names, x.device):
            x = self._add_delta(x, self.base_layer(x, *args, **kwargs), name, examples)
        return self.base_layer(x, *args, **kwargs)


class ParallelLayer(BottleneckLayer):
    """A frozen feed-forward or projection and, by name, parallel adapters; their input is its residual or input.

    Where a norm precedes the feed-forward (GPT-2, Llama), their input is the norm's.
    """

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig, norm: nn.Module | None = None
    ) -> None:
        super().__init__(base_layer, adapter_name, config)
        self._norm_input: torch.Tensor | None = None
        if norm is not None:
            self._handles.append(norm.register_forward_pre_hook(self._store_norm_input))

    def dims(self) -> tuple[int, int]:
        """Return a linear base's own dimensions; those of a feed-forward are equal."""
        return dims_of(self.get_base_layer()) or super().dims()

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Return the base's output (batch, ..., dim) plus the active adapters' outputs for the residual.

        BERT's feed-forward ends in a module called with (inner states, residual), which returns
        LayerNorm(dense(inner states) + residual). Adding to that residual is adding before residual and layer norm,
        which is what a parallel adapter does.
        """
        if args:
            residual, *args_left = args
            for name, examples in self._active(adapter_names, x.device):
                residual = self._add_delta(residual, args[0], name, examples)
            return self.base_layer(x, residual, *args_left, **kwargs)
        out = super().forward(x, adapter_names=adapter_names, **kwargs)
        self._norm_input = None
        return out

    def _adapter_input(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return x if self._norm_input is None else self._norm_input

    def _store_norm_input(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._norm_input = inputs[0]


def dims_of(layer: nn.Module) -> tuple[int, int] | None:
    """Return the input and output dimension of a layer, None where it has none."""
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[0], layer.normalized_shape[0]
    return (layer.in_features, layer.out_features) if hasattr(layer, "out_features") else None  # type: ignore[return-value]
