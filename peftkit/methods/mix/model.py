"""Prefix, adapters and LoRA together in a pretrained model."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from peftkit.compat.peft import adapters_off
from peftkit.methods.adapter.config import BottleneckConfig
from peftkit.methods.adapter.layer import BottleneckLayer
from peftkit.methods.adapter.model import BottleneckModel, norm_before
from peftkit.methods.mix.config import MixConfig
from peftkit.methods.mix.layer import BehindLayer, Gate, GatedPrefixLayer, LowRankLayer, QueryValueLayer
from peftkit.methods.soft_prompt.attention import is_attention
from peftkit.methods.soft_prompt.model import add_prompts, remove_prompts, stacks


class MixModel(BottleneckModel):
    """PEFT's tuner for `MixConfig`: adapters and LoRA replace modules, a prefix hooks the stacks."""

    prefix = "mix_"
    merge_refusal = "a mix is no linear change of the base's weights and cannot be merged"
    tuner_layer_cls = BaseTunerLayer

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Give the model, which may have some already, a fresh mix."""
        config: MixConfig = self.peft_config[adapter_name]  # type: ignore[assignment]
        self.prepare(config, model)  # before the first change
        if not any(isinstance(module, BaseTunerLayer) for module in model.modules()):
            model.requires_grad_(False)  # PEFT does it only where it finds no tuner's layer, such as a prefix
        if config.gated:
            for stack in stacks(model):
                if not isinstance(getattr(stack, "soft_prompt", None), GatedPrefixLayer):
                    stack.soft_prompt = GatedPrefixLayer(stack)
        with adapters_off(model, BottleneckLayer):  # a prefix starts from the base's keys and values
            add_prompts(model, adapter_name, config.prefix(), is_loaded=low_cpu_mem_usage or bool(state_dict))
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage)

    def unload(self) -> nn.Module:
        """Return the base without any mix."""
        remove_prompts(self.model)
        return super().unload()

    def add_layer(
        self,
        config: MixConfig,  # type: ignore[override]
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
    ) -> None:
        super().add_layer(config, adapter_name, target, target_name, parent)
        if not config.gated:
            return
        layer = getattr(parent, target_name)
        weight = layer.bottleneck_down[adapter_name].weight
        stack = next(stack for stack in stacks(self.model) if any(module is layer for module in stack.modules()))
        prefix: Any = stack.soft_prompt
        # in a decoder only the values of its cross-attention, which come from the encoder, contain no later tokens
        has_mean = not prefix.is_causal or (
            isinstance(layer, LowRankLayer) and not parent.is_causal and target_name.startswith("v")
        )
        gate = Gate(weight.shape[1], prefix.tokens if has_mean else None)
        layer.bottleneck_gate[adapter_name] = gate.to(weight.device)

    def new_layer(
        self, config: BottleneckConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module
    ) -> BottleneckLayer:
        if is_attention(parent):
            kind = QueryValueLayer if target_name == "c_attn" else LowRankLayer
            return kind(target, adapter_name, config)
        if config.kind == "pfeiffer" and (norm := norm_before(parent)) is not None:
            return BehindLayer(target, adapter_name, config, norm)
        return super().new_layer(config, adapter_name, target, target_name, parent)

    def check_model(self, config: MixConfig, model: Any) -> None:  # type: ignore[override]
        super().check_model(config, model)
        if config.gated and getattr(model.config, "chunk_size_feed_forward", None):
            raise ValueError("gates read whole texts, not chunks; set chunk_size_feed_forward=0 in the model's config")

    def check_adapter(self, config: MixConfig) -> None:  # type: ignore[override]
        super().check_adapter(config)
        if len({other.gated for other in self.peft_config.values()}) > 1:  # type: ignore[union-attr, attr-defined]
            raise ValueError("gated and ungated mixes cannot share a model; load them over separate bases")
