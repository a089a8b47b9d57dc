"""Turn a pretrained model into one with bottleneck adapters at its sub-layers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from peftkit.methods.adapter.config import BottleneckConfig
from peftkit.methods.adapter.layer import BottleneckLayer, ParallelLayer, PostNormLayer
from peftkit.methods.mixed_batch import named_rows

NORMS = ("ln_2", "post_attention_layernorm")  # before a feed-forward, in GPT-2 and Llama


class BottleneckModel(BaseTuner):
    """PEFT's tuner for `BottleneckConfig`: get_peft_model makes it."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.add(adapter_name, peft_config)
            return
        layer = self._layer(peft_config, adapter_name, target, target_name, parent)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter trains only once it is made active
        self._replace_module(parent, target_name, layer, target)

    def _layer(
        self, config: BottleneckConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module
    ) -> BottleneckLayer:
        """Return the layer that takes the target's place."""
        if config.kind == "parallel":
            return ParallelLayer(target, adapter_name, config, norm_before(parent))
        if isinstance(target, nn.LayerNorm):
            return PostNormLayer(target, adapter_name, config)
        return BottleneckLayer(target, adapter_name, config)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(new_module, BottleneckLayer):
            super()._replace_module(parent, child_name, new_module, child)
        else:  # unload(): PEFT would hand the weight on, which a whole feed-forward does not have
            if isinstance(child, ParallelLayer):
                child.release()
            setattr(parent, child_name, new_module)

    def _prepare_adapter_config(self, peft_config: BottleneckConfig, model_config: dict[str, Any]) -> BottleneckConfig:
        if peft_config.target_modules is None:
            peft_config.target_modules = peft_config.places(model_config.get("model_type", "a custom model"))
        return peft_config

    def _prepare_model(self, peft_config: BottleneckConfig, model: nn.Module) -> None:
        """Refuse layers that the model has not, where PEFT would leave them out in silence."""
        if peft_config.layers is None:
            return
        keys = [key for key, _ in model.named_modules() if key]
        there = {layer_index(key) for key in keys if BaseTuner._check_target_module_exists(peft_config, key)}
        known = sorted(index for index in there if index is not None)
        missing = [index for index in peft_config.layers if index not in known]
        if missing or not peft_config.layers:
            raise ValueError(f"layers={peft_config.layers} must name some of the model's {known}")

    @staticmethod
    def _check_target_module_exists(peft_config: BottleneckConfig, key: str) -> Any:
        found = BaseTuner._check_target_module_exists(peft_config, key)
        if found and peft_config.layers is not None:
            return layer_index(key) in peft_config.layers
        return found

    def _check_new_adapter_config(self, config: BottleneckConfig) -> None:
        super()._check_new_adapter_config(config)
        # some go around the modules that others go into: the later would rename the earlier's weights
        kinds = {other.kind for other in self.peft_config.values()}
        if len(kinds) > 1:
            raise ValueError(
                f"{' and '.join(sorted(kinds))} adapters cannot share a model; load them over separate bases"
            )

    def _check_merge_allowed(self) -> None:
        raise ValueError("bottleneck adapters are not linear and cannot be merged into their base; try unload()")

    def _enable_peft_forward_hooks(self, *_: Any, **kwargs: Any) -> AbstractContextManager[None]:
        """Hand `adapter_names`, one for each row of the batch, to every adapter and every saved module."""
        return named_rows(self, (BottleneckLayer, AuxiliaryTrainingWrapper), kwargs.get("adapter_names"))


def norm_before(parent: nn.Module) -> nn.Module | None:
    """Return the norm before a layer's feed-forward, None where it comes after."""
    return next((getattr(parent, name) for name in NORMS if hasattr(parent, name)), None)


def layer_index(key: str) -> int | None:
    """Return the number of the layer that a module's dotted name lies in: 3 for "encoder.layer.3.output.dense"."""
    return next((int(part) for part in key.split(".") if part.isdigit()), None)
