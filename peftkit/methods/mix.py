"""Mixes of prefix, adapter and LoRA as a PEFT tuner; importing this module registers it."""

from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from peftkit.compat.peft import disabled_adapters, peft_type, register_tuner
from peftkit.compat.tuner import TunerLayer, check_values
from peftkit.config.families import family_of
from peftkit.methods.adapter import BottleneckModel, norm_before
from peftkit.methods.adapter_layers import BottleneckConfig, BottleneckLayer, ParallelLayer
from peftkit.methods.soft_prompt import SoftPromptConfig, add_prompts, stacks
from peftkit.methods.soft_prompt.layer import is_attention, is_causal
from peftkit.methods.soft_prompt.prefix import Prefix, PrefixLayer


@dataclass
class MixConfig(BottleneckConfig):
    """A prefix at every attention, an adapter, and LoRA for queries and values, in one method.

    Mix-and-Match (He et al. 2022, section 4.6) is a short prefix and a scaled parallel adapter. UniPELT (Mao et al.
    2022, section 3.2) is a prefix, a Pfeiffer adapter and LoRA, each with a gate per layer: a factor in (0, 1)
    that a small learned layer computes from the part's own input, averaged over the tokens.

    Where the paper, its authors' code and the `adapters` library 1.3.0 differ, peftkit does this:
    the mean ignores padding, which both implementations include, so that a text's gates do not depend on its batch;
    a stack with causal attention (GPT-2, Llama, T5's decoder) has a gate for each token instead of the mean, which
    would leak later tokens and could not be computed in generation from a cache;
    the adapter's gate has the adapter's input, as in both implementations: the feed-forward's output with residual, in
    BERT normed; query and value have a gate each, as in both implementations; the paper has one per layer;
    LoRA's gate replaces its alpha / rank, as in the paper and in both implementations; keys and values of a prefix
    share one gate; GPT-2, which computes queries, keys and values at once, has one LoRA and one gate for both.

    Args:
        kind: the adapter's, as in `BottleneckConfig`, whose other arguments are the adapter's too. `layers` applies
            to adapter and LoRA; the prefix is in all layers.
        num_virtual_tokens: length of the prefix.
        encoder: mlp or lstm, as in `SoftPromptConfig`; null: the prefix trains directly, from the keys and values of
            random tokens.
        encoder_hidden_size: hidden size of the encoder; null: the model's.
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
        self.prefix_config()  # checks its values

    def prefix_config(self) -> SoftPromptConfig:
        """Return the prefix's own config."""
        return SoftPromptConfig(
            kind="prefix",
            num_virtual_tokens=self.num_virtual_tokens,
            encoder=self.encoder,
            encoder_hidden_size=self.encoder_hidden_size,
        )

    def lora_config(self) -> BottleneckConfig:
        """Return LoRA's config: a parallel adapter without activation, as in He et al. (2022, table 1)."""
        assert self.rank is not None
        scaling = 1.0 if self.alpha is None else self.alpha / self.rank
        return BottleneckConfig(
            bottleneck_dim=self.rank, activation="linear", scaling=scaling, inference_mode=self.inference_mode
        )

    def default_targets(self, model_type: str) -> str:
        adapter = super().default_targets(model_type)
        family = family_of(model_type)
        assert family is not None  # super().default_targets() has checked it
        # here a Pfeiffer adapter follows the whole layer, but must not wrap the mix's own LoRA
        if self.kind == "pfeiffer" and family.is_norm_first:
            adapter = family.modules.feed_forward
        return adapter if self.rank is None else f"{adapter}|{family.modules.query_value}"


class MixModel(BottleneckModel):
    """PEFT's tuner for `MixConfig`: adapters and LoRA replace modules, a prefix hooks the stacks."""

    prefix = "mix_"
    merge_error = "a mix is not a linear change of the base's weights and cannot be merged"

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Add a newly initialized mix to the model, which may have others."""
        config: MixConfig = self.peft_config[adapter_name]  # type: ignore[assignment]
        self.prepare(config, model)  # before the first change
        if not any(isinstance(module, TunerLayer) for module in model.modules()):
            model.requires_grad_(False)  # PEFT omits it where it finds a tuner's layer, such as a prefix
        for stack in stacks(model) if config.gated else []:
            if not isinstance(getattr(stack, "soft_prompt", None), GatedPrefixLayer):
                stack.soft_prompt = GatedPrefixLayer(stack)
        with disabled_adapters(model, BottleneckLayer):  # a prefix starts from the base's keys and values
            add_prompts(model, adapter_name, config.prefix_config(), is_loaded=low_cpu_mem_usage or bool(state_dict))
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
        layer.bottleneck_gate[adapter_name] = Gate(weight.shape[1], prefix.token_mask if has_mean else None).to(
            weight.device
        )

    def new_layer(
        self, config: BottleneckConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module
    ) -> BottleneckLayer:
        if is_attention(parent):
            return (QueryValueLayer if target_name == "c_attn" else LowRankLayer)(target, adapter_name, config)
        if config.kind == "pfeiffer" and (norm := norm_before(parent)) is not None:
            return SequentialPreNormLayer(target, adapter_name, config, norm)
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


class TokenMask:
    """The mask of the tokens over which the gates of one stack are averaged, from its latest attention.

    It is the attention's mask, not the batch's, so that a layer which gradient checkpointing recomputes gets its own.
    """

    def __init__(self) -> None:
        self.mask: torch.Tensor | None = None  # (batch, tokens), None: all

    def mean(self, gates: torch.Tensor, examples: torch.Tensor | None) -> torch.Tensor:
        """Return the mean (batch, 1, 1) over tokens of gates (batch, tokens, 1) of these examples of the batch."""
        if self.mask is None:
            return gates.mean(dim=1, keepdim=True)
        mask = (self.mask if examples is None else self.mask[examples])[..., None]
        return (gates * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)


class Gate(nn.Linear):
    """A part's factors in (0, 1), initially near one half: per token, or their mean over the tokens of `token_mask`."""

    def __init__(self, input_dim: int, token_mask: TokenMask | None, count: int = 1) -> None:
        super().__init__(input_dim, count)
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)
        self.token_mask = token_mask

    def forward(self, x: torch.Tensor, examples: torch.Tensor | None = None, number: int = 0) -> torch.Tensor:
        """Return the factors (batch, tokens or 1, 1) of a part with this input (batch, tokens, dim).

        `number` chooses one of several gates; `examples` are those of the batch in the input, None: all.
        """
        weight, bias = self.weight[number : number + 1], self.bias[number : number + 1]
        gates = torch.sigmoid(functional.linear(x.to(weight.dtype), weight, bias).float())
        return gates if self.token_mask is None else self.token_mask.mean(gates, examples)


class GatedPrefixLayer(PrefixLayer):
    """A prefix with a gate at every attention of the stack, computed from the attention's input."""

    adapter_layer_names = (*PrefixLayer.adapter_layer_names, "soft_prompt_gate")

    def __init__(self, stack: nn.Module) -> None:
        super().__init__(stack)
        self.soft_prompt_gate = nn.ModuleDict()
        self.token_mask = TokenMask()
        self.is_causal = is_causal(stack)
        self._gates: dict[int, torch.Tensor] = {}  # by number of the attention, until it uses them
        for number, attention in enumerate(self._attentions):
            names = list(signature(attention.forward).parameters)
            hook = partial(self._compute_gates, number=number, argument_names=names)
            self._handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))

    def add(self, name: str, config: SoftPromptConfig, input_dim: int, vectors: torch.Tensor) -> None:
        super().add(name, config, input_dim, vectors)
        self.soft_prompt_gate[name] = Gate(
            input_dim, None if self.is_causal else self.token_mask, len(self._attentions)
        )

    def prefix(self, number: int, key: torch.Tensor, value: torch.Tensor) -> Prefix | None:
        prefix, gate = super().prefix(number, key, value), self._gates.pop(number, None)
        return None if prefix is None else prefix._replace(gate=gate)

    def _compute_gates(
        self,
        attention: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        number: int,
        argument_names: list[str],
    ) -> None:
        arguments = dict(zip(argument_names, args, strict=False)) | kwargs
        mask = arguments.get("mask", arguments.get("attention_mask"))  # (batch, 1, queries, keys), None: no mask
        self.token_mask.mask = None if mask is None else mask[:, 0].any(dim=1)
        names = self.active_names()
        if not names or self.recorded is not None:
            return
        if self.example_names is None and len(names) > 1:
            raise ValueError(f"gated prefixes cannot be active together, as {', '.join(names)} are; activate one")
        states = arguments["hidden_states"]
        gates = torch.stack([self.soft_prompt_gate[name](states, number=number) for name in names])
        indices = (
            0 if self.example_names is None else self.adapter_indices(names, len(states), states.device).clamp(min=0)
        )
        self._gates[number] = gates[indices, torch.arange(len(states), device=states.device)].unsqueeze(1)


class LowRankLayer(ParallelLayer):
    """A frozen projection and, by name, the LoRA parallel to it (Hu et al. 2022, section 4.1)."""

    has_bias = False

    def add(self, adapter_name: str, config: Any) -> None:
        super().add(adapter_name, config.lora_config())
        nn.init.kaiming_uniform_(self.bottleneck_down[adapter_name].weight, a=5**0.5)


class QueryValueLayer(LowRankLayer):
    """GPT-2's one projection to queries, keys and values, with LoRA for queries and values."""

    def dims(self) -> tuple[int, int]:
        input_dim, output_dim = super().dims()
        return input_dim, output_dim // 3 * 2

    def _delta(self, inputs: torch.Tensor, name: str, examples: torch.Tensor | None) -> torch.Tensor:
        query, value = super()._delta(inputs, name, examples).chunk(2, dim=-1)
        return torch.cat([query, torch.zeros_like(query), value], dim=-1)


class SequentialPreNormLayer(ParallelLayer):
    """A feed-forward that follows its norm, and the adapters after it, whose input is its output plus residual."""

    def _adapter_input(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        assert self._norm_input is not None  # the norm has just run
        return self._norm_input + out


register_tuner("MIX", MixConfig, MixModel)
