"""Bottleneck adapters in a pretrained model: which layer replaces which module."""

from __future__ import annotations

from torch import nn

from peftkit.compat.tuner import Tuner
from peftkit.methods.adapter.config import BottleneckConfig
from peftkit.methods.adapter.layer import BottleneckLayer, ParallelLayer, PostNormLayer

NORMS = ("ln_2", "post_attention_layernorm")  # before a feed-forward, in GPT-2 and Llama


class BottleneckModel(Tuner):
    """PEFT's tuner for `BottleneckConfig`."""

    prefix = "bottleneck_"
    merge_refusal = "bottleneck adapters are not linear and cannot be merged into their base"
    tuner_layer_cls = BottleneckLayer
    called_with_names = (BottleneckLayer,)

    def add_layer(
        self, config: BottleneckConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.add(adapter_name, config)
            return
        layer = self.new_layer(config, adapter_name, target, target_name, parent)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter trains once it is activated
        self.place_layer(parent, target_name, layer, target)

    def new_layer(
        self, config: BottleneckConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module
    ) -> BottleneckLayer:
        """Return the layer that replaces the target."""
        if config.kind == "parallel":
            return ParallelLayer(target, adapter_name, config, norm_before(parent))
        if isinstance(target, nn.LayerNorm):
            return PostNormLayer(target, adapter_name, config)
        return BottleneckLayer(target, adapter_name, config)

    def place_layer(self, parent: nn.Module, name: str, layer: nn.Module, replaced: nn.Module) -> None:
        if isinstance(layer, BottleneckLayer):
            super().place_layer(parent, name, layer, replaced)
        else:  # unload(): PEFT would pass on the weight, which a whole feed-forward does not have
            if isinstance(replaced, ParallelLayer):
                replaced.release()
            setattr(parent, name, layer)

    def choose_targets(self, config: BottleneckConfig, model_type: str) -> None:
        if config.target_modules is None:
            config.target_modules = config.places(model_type)

    def check_model(self, config: BottleneckConfig, model: nn.Module) -> None:
        """Refuse layers that the model lacks; PEFT would leave them out silently."""
        if config.layers is None:
            return
        indices = {layer_index(name) for name, _ in model.named_modules() if name and Tuner.is_target(config, name)}
        known = sorted(index for index in indices if index is not None)
        if not config.layers or not set(config.layers) <= set(known):
            raise ValueError(f"layers={config.layers} must name some of the model's {known}")

    def check_adapter(self, config: BottleneckConfig) -> None:
        # some replace modules around those that others replace: the later would rename the earlier's weights
        kinds = {other.kind for other in self.peft_config.values()}
        if len(kinds) > 1:
            raise ValueError(
                f"{' and '.join(sorted(kinds))} adapters cannot share a model; load them over separate bases"
            )

    @classmethod
    def is_target(cls, config: BottleneckConfig, name: str) -> bool:
        return super().is_target(config, name) and (config.layers is None or layer_index(name) in config.layers)


def norm_before(parent: nn.Module) -> nn.Module | None:
    """Return the norm before a layer's feed-forward, None where it comes after."""
    return next((getattr(parent, name) for name in NORMS if hasattr(parent, name)), None)


def layer_index(name: str) -> int | None:
    """Return the number of the layer that a module is in: 3 for "encoder.layer.3.output.dense"."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)
