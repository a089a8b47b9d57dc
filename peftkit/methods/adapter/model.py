"""Turn a pretrained model into one with bottleneck adapters behind its sub-layers."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from peftkit.methods.adapter.config import BottleneckConfig
from peftkit.methods.adapter.layer import BottleneckLayer


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
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter trains only once it is made active
        self._replace_module(parent, target_name, layer, target)

    @staticmethod
    def _prepare_adapter_config(peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        assert isinstance(peft_config, BottleneckConfig)
        if peft_config.target_modules is None:
            peft_config.target_modules = peft_config.places(model_config["model_type"])
        return peft_config

    def _unload_and_optionally_merge(self, merge: bool = True, **options: Any) -> nn.Module:
        if merge:
            raise ValueError("bottleneck adapters are not linear and cannot be merged into their base; try unload()")
        return super()._unload_and_optionally_merge(merge=False, **options)
