"""A learned weighted sum of all layers as input of the head, as a PEFT tuner; importing this module registers it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig
from torch import nn

from peftkit.compat.peft import peft_type, register_tuner
from peftkit.compat.transformers import apply_pooler
from peftkit.compat.tuner import HookedTuner, HookLayer


@dataclass
class LayerMixConfig(PeftConfig):
    """The scalar mix: gamma * sum_j softmax(s)_j h_j over the embeddings and every layer (Peters et al. 2018, eq. 1).

    Pooler and head get the mix instead of the last layer. Initially it is the mean of all layers.

    Args:
        layer_norm: normalize each layer's states to mean 0 and variance 1 first (section 3.2): those of GPT-2 differ
            in scale.
        modules_to_save: modules that are fully trained and saved with the mix, such as a head.
    """

    layer_norm: bool = False
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("LAYER_MIX")


class LayerMixModel(HookedTuner):
    """PEFT's tuner for `LayerMixConfig`."""

    prefix = "layer_mix_"
    merge_error = "a mix of layers does not change the base's weights and cannot be merged"

    def attach(self, model: nn.Module, adapter_name: str, config: Any, is_loaded: bool) -> list[nn.Module]:
        stack: Any = getattr(model, getattr(model, "base_model_prefix", ""), model)
        if stack.config.is_encoder_decoder:
            raise ValueError("a mix of layers is the input of a head, which a text-to-text model lacks")
        if not hasattr(stack, "layer_mix"):
            stack.layer_mix = LayerMix(stack)
        stack.layer_mix.add(adapter_name, config.layer_norm)
        stack.layer_mix.to(next(model.parameters()).device)
        return [stack]


class LayerMix(HookLayer):
    """The mixes of one stack by name; its hooks replace the last hidden state by the active mix."""

    adapter_layer_names = ("layer_mix_scores", "layer_mix_gamma")

    def __init__(self, stack: Any) -> None:
        super().__init__()
        self.layer_mix_scores = nn.ParameterDict()  # s, (1 + layers,)
        self.layer_mix_gamma = nn.ParameterDict()  # a scalar
        self._states = stack.config.num_hidden_layers + 1
        self._is_normed: dict[str, bool] = {}
        self._requested = (
            False,
            True,
        )  # in this call: all hidden states, a dict instead of a tuple
        self._handles = [
            stack.register_forward_pre_hook(self._request_states, with_kwargs=True),
            stack.register_forward_hook(self._replace_last_state),
        ]

    def add(self, name: str, is_normed: bool) -> None:
        self.layer_mix_scores[name] = nn.Parameter(torch.zeros(self._states))
        self.layer_mix_gamma[name] = nn.Parameter(torch.ones(()))
        self._is_normed[name] = is_normed

    def mixed(self, name: str, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the weighted sum of states of (batch, tokens, dim) each."""
        weights = self.layer_mix_gamma[name] * self.layer_mix_scores[name].softmax(dim=0)
        if self._is_normed[name]:
            states = [nn.functional.layer_norm(state, state.shape[-1:]) for state in states]
        return sum(
            (weight * state for weight, state in zip(weights, states, strict=True)), torch.zeros_like(states[-1])
        )

    def _request_states(
        self, stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = self.active_names()
        if not names:
            return args, kwargs
        if self.example_names is None and len(names) > 1:
            raise ValueError(f"one mix of layers can be active, not {', '.join(names)}; activate one")
        states, as_dict = kwargs.get("output_hidden_states"), kwargs.get("return_dict")
        self._requested = (
            bool(stack.config.output_hidden_states if states is None else states),
            bool(stack.config.return_dict if as_dict is None else as_dict),
        )
        return args, {**kwargs, "output_hidden_states": True, "return_dict": True}

    def _replace_last_state(self, stack: nn.Module, args: tuple[Any, ...], outputs: Any) -> Any:
        names = self.active_names()
        if not names:
            return outputs
        states = outputs.hidden_states
        mixes = [self.mixed(name, states) for name in names]
        mix = mixes[0]
        if self.example_names is not None:  # those without a mix have the last state
            indices = self.adapter_indices(names, len(mix), mix.device)
            mix = torch.stack([*mixes, states[-1]])[indices, torch.arange(len(mix), device=mix.device)]
        with_states, as_dict = self._requested
        found = {name: value for name, value in outputs.items() if name != "hidden_states" or with_states}
        found["last_hidden_state"] = mix
        if "pooler_output" in found:
            found["pooler_output"] = apply_pooler(stack, mix)
        outputs = type(outputs)(**found)
        return outputs if as_dict else outputs.to_tuple()


register_tuner("LAYER_MIX", LayerMixConfig, LayerMixModel)
