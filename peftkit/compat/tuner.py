"""Base classes of peftkit's own PEFT tuners: private hooks of BaseTuner and BaseTunerLayer under public names.

A tuner subclasses `Tuner` (its layers replace modules) or `HookedTuner` (its layers hook whole stacks), a layer
`TunerLayer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, set_additional_trainable_modules
from torch import nn


class TunerLayer(nn.Module, BaseTunerLayer):
    """A layer with adapters by name; it is frozen, off, or on with its active adapters, as PEFT sets it."""

    adapter_layer_names: tuple[str, ...] = ()  # attributes with weights by adapter
    other_param_names: tuple[str, ...] = ()  # other attributes by adapter

    def __init__(self, active_adapters: str | Sequence[str] = ()) -> None:
        super().__init__()
        self._disable_adapters = False
        self._active_adapter = active_adapters if isinstance(active_adapters, str) else list(active_adapters)
        self.merged_adapters: list[str] = []

    def move_to_base(self, adapter_name: str) -> None:
        """Move an adapter to the device of the base layer."""
        device = next((weight.device for weight in self.get_base_layer().parameters()), None)
        self._move_adapter_to_device_of_base_layer(adapter_name, device)

    def cast(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Cast an input to the dtype of an adapter, unless PEFT's casting is switched off."""
        return self._cast_input_dtype(x, dtype)  # type: ignore[no-any-return]


class Tuner(BaseTuner):
    """A tuner whose layers replace modules, and cannot be merged."""

    merge_refusal: str  # why its weights cannot be folded into the base
    called_with_names: tuple[type[nn.Module], ...] = ()  # layers whose forward takes `adapter_names`

    def add_layer(self, config: Any, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module) -> None:
        """Give a target an adapter, in a layer that replaces it unless it is one already."""
        raise NotImplementedError(type(self).__name__)

    def place_layer(self, parent: nn.Module, name: str, layer: nn.Module, replaced: nn.Module) -> None:
        """Replace a module by a layer; also called on unload, with the base in place of the layer."""
        super()._replace_module(parent, name, layer, replaced)

    def choose_targets(self, config: Any, model_type: str) -> None:
        """Set `config.target_modules` where the user did not."""

    def check_model(self, config: Any, model: nn.Module) -> None:
        """Raise ValueError where a config does not fit the model."""

    def check_adapter(self, config: Any) -> None:
        """Raise ValueError where a config does not fit the adapters that are there."""

    @classmethod
    def is_target(cls, config: Any, name: str) -> bool:
        """Return whether the module of this name is one of `config.target_modules`."""
        return bool(BaseTuner._check_target_module_exists(config, name))

    def prepare(self, config: Any, model: nn.Module) -> None:
        """Check a config and complete it, before the model changes."""
        self._check_new_adapter_config(config)
        self._prepare_adapter_config(config, BaseTuner.get_model_config(model))
        self.check_model(config, model)

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        *_: Any,
        **__: Any,
    ) -> None:
        self.add_layer(peft_config, adapter_name, target, target_name, parent)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        self.place_layer(parent, child_name, new_module, child)

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        self.choose_targets(peft_config, model_config.get("model_type", "a custom model"))
        return peft_config

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        self.check_model(peft_config, model)

    @classmethod
    def _check_target_module_exists(cls, peft_config: PeftConfig, key: str) -> bool:  # type: ignore[override]
        return cls.is_target(peft_config, key)

    def _check_new_adapter_config(self, config: PeftConfig) -> None:
        super()._check_new_adapter_config(config)
        self.check_adapter(config)

    def _check_merge_allowed(self) -> None:
        raise ValueError(f"{self.merge_refusal}; use unload()")

    def _enable_peft_forward_hooks(self, *_: Any, **kwargs: Any) -> AbstractContextManager[None]:
        """Pass `adapter_names`, one for each example of the batch, to every layer and every module saved whole."""
        return named_adapters(self, (*self.called_with_names, AuxiliaryTrainingWrapper), kwargs.get("adapter_names"))


class HookedTuner(Tuner):
    """A tuner whose layers hook the stacks of a model (soft prompts, mixes of layers), and replace nothing."""

    def hook(self, model: nn.Module, adapter_name: str, config: Any, is_loaded: bool) -> list[nn.Module]:
        """Give the stacks, which may have adapters already, a fresh one; return those that were reached.

        `is_loaded`: saved weights will replace the fresh ones.
        """
        raise NotImplementedError(type(self).__name__)

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Give the model, which may have some already, a fresh adapter."""
        config = self.peft_config[adapter_name]
        reached = self.hook(model, adapter_name, config, is_loaded=low_cpu_mem_usage or bool(state_dict))
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        self._mark_only_adapters_as_trainable(model)
        set_additional_trainable_modules(
            model=model,
            peft_config=config,
            model_config=BaseTuner.get_model_config(self),
            adapter_name=adapter_name,
            activate_adapter=adapter_name in self.active_adapters,
        )
        self.targeted_module_names = [name for name, module in model.named_modules() if module in reached]

    def place_layer(self, parent: nn.Module, name: str, layer: nn.Module, replaced: nn.Module) -> None:
        """Replace a module; PEFT would pass on its weight, which a head of several layers does not have."""
        setattr(parent, name, layer)

    def add_layer(self, *_: Any, **__: Any) -> None:
        """Do nothing: a stack is hooked, not replaced."""


@contextmanager
def named_adapters(tuner: BaseTuner, kinds: tuple[type[nn.Module], ...], names: Sequence[str] | None) -> Iterator[None]:
    """Let each example of a batch have the adapter of its name; without names change nothing.

    Modules of these kinds receive the names with every call. Those that hook a stack, and so are not called
    themselves, read them from their attribute `example_names`.

    Raises:
        ValueError: the model is in training mode, or a name is unknown.
    """
    if names is None:
        yield
        return
    if tuner.training:
        raise ValueError("adapter_names mixes adapters in inference only; call model.eval() first")
    if unknown := sorted(set(names) - set(tuner.peft_config) - {"__base__"}):
        raise ValueError(f"adapter_names={', '.join(unknown)}: unknown; loaded are {', '.join(tuner.peft_config)}")
    handles = [
        module.register_forward_pre_hook(partial(_add_names, names=list(names)), with_kwargs=True)
        for module in tuner.modules()
        if isinstance(module, kinds)
    ]
    hooking: list[Any] = [module for module in tuner.modules() if hasattr(module, "example_names")]
    try:
        for module in hooking:
            module.example_names = list(names)
        yield
    finally:
        for module in hooking:
            module.example_names = None
        for handle in handles:
            handle.remove()


def repeats(examples: int, names: Sequence[str]) -> int:
    """Return how many examples of a batch share each name: beam search repeats every example.

    Raises:
        ValueError: the batch is no multiple of the names.
    """
    if examples % len(names):
        raise ValueError(f"adapter_names has {len(names)} names for a batch of {examples}; use one an example")
    return examples // len(names)


def _add_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    times = repeats(len(args[0]), names)
    return args, {**kwargs, "adapter_names": [name for name in names for _ in range(times)]}
