"""Bottleneck adapters as a PEFT tuner: which layer replaces which module. Importing this module registers it."""

from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from peftkit.compat.peft import register_tuner
from peftkit.compat.tuner import Tuner
from peftkit.methods.adapter_layers import BottleneckConfig, BottleneckLayer, ParallelLayer, PostNormLayer


class BottleneckModel(Tuner):
    """PEFT's tuner for `BottleneckConfig`."""

    prefix = "bottleneck_"
    merge_error = "bottleneck adapters are not linear and cannot be merged into their base"

    def add_layer(
        self, config: BottleneckConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.add(adapter_name, config)
            return
        layer = self.new_layer(config, adapter_name, target, target_name, parent)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # another adapter trains once it is activated
        setattr(parent, target_name, layer)

    def new_layer(
        self, config: BottleneckConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module
    ) -> BottleneckLayer:
        """Return the layer that replaces the target."""
        if config.kind == "parallel":
            return ParallelLayer(target, adapter_name, config, norm_before(parent))
        return (PostNormLayer if isinstance(target, nn.LayerNorm) else BottleneckLayer)(target, adapter_name, config)

    def prepare(self, config: BottleneckConfig, model: nn.Module) -> None:
        """Choose the targets; reject layers that the model lacks, which PEFT would ignore silently."""
        # one kind wraps modules that contain those of another: adding it would rename the saved weights of the other
        kinds = sorted({other.kind for other in self.peft_config.values()})  # type: ignore[union-attr, attr-defined]
        if len(kinds) > 1:
            raise ValueError(f"{' and '.join(kinds)} adapters cannot share a model; load them over separate bases")
        if config.target_modules is None:
            config.target_modules = config.default_targets(
                self.get_model_config(model).get("model_type", "a custom model")
            )
        if config.layers is None:
            return
        names = [name for name, _ in model.named_modules() if name and check_target_module_exists(config, name)]
        known = sorted({index for name in names if (index := layer_index(name)) is not None})
        if not config.layers or not set(config.layers) <= set(known):
            raise ValueError(f"layers={config.layers} must name some of the model's {known}")

    @classmethod
    def is_target(cls, config: BottleneckConfig, name: str) -> bool:
        return config.layers is None or layer_index(name) in config.layers


def norm_before(parent: nn.Module) -> nn.Module | None:
    """Return the norm before a layer's feed-forward, as in GPT-2 and Llama, None where it comes after."""
    return getattr(parent, "ln_2", getattr(parent, "post_attention_layernorm", None))


def layer_index(name: str) -> int | None:
    """Return the index of the layer that a module is in: 3 for "encoder.layer.3.output.dense"."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


register_tuner("BOTTLENECK", BottleneckConfig, BottleneckModel)

__all__ = ["BottleneckConfig", "BottleneckModel"]
