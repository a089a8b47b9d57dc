"""Turn a frozen model into one whose head reads a learned mix of all layers; importing this registers it with PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from peftkit.compat.peft import peft_type, register_tuner
from peftkit.methods.hooked_tuner import HookedTuner, pooled
from peftkit.methods.mixed_batch import repeats


@dataclass
class LayerMixConfig(PeftConfig):
    """The scalar mix: gamma * sum_j softmax(s)_j h_j over the embeddings and every layer (Peters et al. 2018, eq. 1).

    Whatever sits above the layers, a pooler and any head, reads the mix instead of the last layer. A fresh mix is the
    mean of all.

    Args:
        layer_norm: bring each layer's states to mean 0 and variance 1 before they are mixed (section 3.2): the layers
            of GPT-2 differ in size.
        modules_to_save: modules that train whole and are saved with the mix, as a head.
    """

    layer_norm: bool = False
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("LAYER_MIX")


class LayerMixModel(HookedTuner):
    """PEFT's tuner for `LayerMixConfig`: get_peft_model makes it."""

    prefix = "layer_mix_"
    tuner_layer_cls: type[BaseTunerLayer]

    def _hook(self, model: nn.Module, adapter_name: str, config: Any, is_loaded: bool) -> list[nn.Module]:
        stack: Any = getattr(model, getattr(model, "base_model_prefix", ""), model)
        if stack.config.is_encoder_decoder:
            raise ValueError("a mix of layers is for a head to read, and a text-to-text model has none")
        if not hasattr(stack, "layer_mix"):
            stack.layer_mix = LayerMix(stack)
        stack.layer_mix.add(adapter_name, config.layer_norm)
        stack.layer_mix.to(next(model.parameters()).device)
        return [stack]

    def unload(self) -> nn.Module:
        """Return the base, whose head reads the last layer again."""
        for stack in [module for module in self.model.modules() if hasattr(module, "layer_mix")]:
            stack.layer_mix.release()  # type: ignore[operator, union-attr]
            del stack.layer_mix
        return super().unload()

    def _check_merge_allowed(self) -> None:
        raise ValueError("a mix of layers is no change of the base's weights and cannot be merged; try unload()")


class LayerMix(nn.Module, BaseTunerLayer):
    """The mixes of one stack by name; its hooks put the active one in the place of the last hidden state."""

    adapter_layer_names = ("layer_mix_scores", "layer_mix_gamma")
    other_param_names = ()

    def __init__(self, stack: Any) -> None:
        super().__init__()
        self.layer_mix_scores = nn.ParameterDict()  # s, (embeddings and layers)
        self.layer_mix_gamma = nn.ParameterDict()  # a scalar
        self._states = stack.config.num_hidden_layers + 1
        self._is_normed: dict[str, bool] = {}
        self._wanted = (False, True)  # of the call under way: all hidden states, a dict and no tuple
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []
        self.row_names: list[str] | None = None  # a mix for each row of the batch
        self._handles = [
            stack.register_forward_pre_hook(self._ask_for_all, with_kwargs=True),
            stack.register_forward_hook(self._put_mix),
        ]

    def add(self, name: str, is_normed: bool) -> None:
        self.layer_mix_scores[name] = nn.Parameter(torch.zeros(self._states))
        self.layer_mix_gamma[name] = nn.Parameter(torch.ones(()))
        self._is_normed[name] = is_normed

    def mixed(self, name: str, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mix states of (batch, tokens, width) each; a name that there is no mix of leaves the last."""
        if name not in self.layer_mix_scores:
            return states[-1]
        weights = self.layer_mix_gamma[name] * self.layer_mix_scores[name].softmax(dim=0)
        if self._is_normed[name]:
            states = [nn.functional.layer_norm(state, state.shape[-1:]) for state in states]
        mix = torch.zeros_like(states[-1])
        for weight, state in zip(weights, states, strict=True):
            mix = mix + weight * state
        return mix

    def release(self) -> None:
        """Give the stack back as it was."""
        for handle in self._handles:
            handle.remove()

    def _ask_for_all(
        self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self._now():
            return args, kwargs
        config: Any = stack.config
        asked, as_dict = kwargs.get("output_hidden_states"), kwargs.get("return_dict")
        self._wanted = (
            bool(config.output_hidden_states if asked is None else asked),
            bool(config.return_dict if as_dict is None else as_dict),
        )
        return args, {**kwargs, "output_hidden_states": True, "return_dict": True}

    def _put_mix(self, stack: nn.Module, args: tuple[Any, ...], outputs: Any) -> Any:
        names = self._now()
        if not names:
            return outputs
        states = outputs.hidden_states
        if self.row_names is None:
            mix = self.mixed(names[0], states)
        else:
            mixes = {name: self.mixed(name, states) for name in names}
            times = repeats(len(states[0]), self.row_names)
            rows = [name for name in self.row_names for _ in range(times)]
            mix = torch.stack([mixes[name][row] for row, name in enumerate(rows)])
        wants_states, wants_dict = self._wanted
        found = {name: value for name, value in outputs.items() if name != "hidden_states" or wants_states}
        found["last_hidden_state"] = mix
        if "pooler_output" in found:
            found["pooler_output"] = pooled(stack, mix)
        outputs = type(outputs)(**found)
        return outputs if wants_dict else outputs.to_tuple()

    def _now(self) -> list[str]:
        """Return the names of the mixes that the present batch asks for; none where they are disabled."""
        if self.disable_adapters:
            return []
        if self.row_names is not None:
            return list(dict.fromkeys(self.row_names))
        names = [name for name in self.active_adapters if name in self.layer_mix_scores]
        if len(names) > 1:
            raise ValueError(f"one mix of layers is read at a time, not {', '.join(names)}; make one of them active")
        return names


LayerMixModel.tuner_layer_cls = LayerMix
register_tuner("LAYER_MIX", LayerMixConfig, LayerMixModel)

__all__ = ["LayerMix", "LayerMixConfig", "LayerMixModel"]
