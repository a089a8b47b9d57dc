"""Mixes of prefix, adapter and LoRA as a PEFT tuner; importing this module registers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from peftkit.compat.peft import adapters_off, peft_type, register_tuner
from peftkit.compat.tuner import TunerLayer, check_values
from peftkit.config.families import family_of
from peftkit.methods.adapter import BottleneckModel, norm_before
from peftkit.methods.adapter_layers import BottleneckConfig, BottleneckLayer
from peftkit.methods.mix_layers import BehindLayer, Gate, GatedPrefixLayer, LowRankLayer, QueryValueLayer
from peftkit.methods.soft_prompt import SoftPromptConfig, add_prompts, stacks
from peftkit.methods.soft_prompt.layer import is_attention


@dataclass
class MixConfig(BottleneckConfig):
    """A prefix at every attention, an adapter, and LoRA at queries and values, in one method.

    Mix-and-Match (He et al. 2022, section 4.6) is a short prefix and a scaled parallel adapter. UniPELT (Mao et al.
    2022, section 3.2) is a prefix, a Pfeiffer adapter and LoRA, each behind a gate of every layer: a factor in (0, 1)
    that a small learned layer computes from the part's own input, averaged over the tokens.

    Where the paper, its authors' code and the `adapters` library 1.3.0 differ, peftkit does this:
    the mean leaves out padding, which both programs count, so that a text's gates do not depend on its batch;
    a stack with causal attention (GPT-2, Llama, T5's decoder) has a gate for each token instead of the mean, which
    would leak later tokens and which generation from a cache could not repeat;
    the adapter's gate has the adapter's input, as in both programs: the feed-forward's output with residual, in
    BERT normed; query and value have a gate each, as in both programs, where the paper has one a layer;
    LoRA's gate replaces its alpha / rank, as in the paper and in both programs; keys and values of a prefix
    share one gate; GPT-2, which computes queries, keys and values at once, has one LoRA and one gate for both.

    Args:
        kind: the adapter's, as in `BottleneckConfig`, whose other arguments are the adapter's too. `layers` is for
            adapter and LoRA; the prefix stays in all.
        num_virtual_tokens: length of the prefix.
        encoder: mlp or lstm, as in `SoftPromptConfig`; null: the prefix trains directly, from the keys and values of
            random tokens.
        encoder_hidden_size: width within the encoder; null: the model's.
        rank: of LoRA; null: no LoRA.
        alpha: LoRA's output is scaled by alpha / rank; null: by 1.
        gated: whether every part has its gates.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: str = "parallel"
    num_virtual_tokens: int = 30
    encoder: str | None = None
    encoder_hidden_size: int | None = None
    rank: int | None = None
    alpha: float | None = None
    gated: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("MIX")
        check_values(
            (
                self.rank is not None and self.rank < 1,
                f"rank={self.rank} leaves no LoRA; set 1 or more, or null for none",
            ),
            (
                self.alpha is not None and self.rank is None,
                f"alpha={self.alpha} scales LoRA, which rank=null leaves out; set rank=8",
            ),
        )
        self.prefix()

    def prefix(self) -> SoftPromptConfig:
        """Return the prefix's own config."""
        return SoftPromptConfig(
            kind="prefix",
            num_virtual_tokens=self.num_virtual_tokens,
            encoder=self.encoder,
            encoder_hidden_size=self.encoder_hidden_size,
        )

    def low_rank(self) -> BottleneckConfig:
        """Return LoRA's config: to He et al. (2022, table 1) a parallel adapter without activation."""
        assert self.rank is not None
        scaling = 1.0 if self.alpha is None else self.alpha / self.rank
        return BottleneckConfig(
            bottleneck_dim=self.rank, activation="linear", scaling=scaling, inference_mode=self.inference_mode
        )

    def places(self, model_type: str) -> str:
        adapter = super().places(model_type)
        family = family_of(model_type)
        assert family is not None  # or the adapter had no places
        # a Pfeiffer adapter there follows the whole layer, which must not wrap the mix's own LoRA
        if self.kind == "pfeiffer" and family.is_norm_first:
            adapter = family.modules.feed_forward
        return adapter if self.rank is None else f"{adapter}|{family.modules.query_value}"


class MixModel(BottleneckModel):
    """PEFT's tuner for `MixConfig`: adapters and LoRA replace modules, a prefix hooks the stacks."""

    prefix = "mix_"
    merge_refusal = "a mix is no linear change of the base's weights and cannot be merged"

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
        if not any(isinstance(module, TunerLayer) for module in model.modules()):
            model.requires_grad_(False)  # PEFT does it only where it finds no tuner's layer, such as a prefix
        for stack in stacks(model) if config.gated else []:
            if not isinstance(getattr(stack, "soft_prompt", None), GatedPrefixLayer):
                stack.soft_prompt = GatedPrefixLayer(stack)
        with adapters_off(model, BottleneckLayer):  # a prefix starts from the base's keys and values
            add_prompts(model, adapter_name, config.prefix(), is_loaded=low_cpu_mem_usage or bool(state_dict))
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage)

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
        prefix: Any = next(stack for stack in stacks(self.model) if layer in stack.modules()).soft_prompt
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

    def prepare(self, config: MixConfig, model: Any) -> None:  # type: ignore[override]
        super().prepare(config, model)
        check_values(
            (
                len({other.gated for other in self.peft_config.values()}) > 1,  # type: ignore[union-attr, attr-defined]
                "gated and ungated mixes cannot share a model; load them over separate bases",
            ),
            (
                config.gated and bool(getattr(model.config, "chunk_size_feed_forward", None)),
                "gates read whole texts, not chunks; set chunk_size_feed_forward=0 in the model's config",
            ),
        )


register_tuner("MIX", MixConfig, MixModel)
