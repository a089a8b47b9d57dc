"""Base classes of peftkit's own PEFT tuners: private hooks of BaseTuner and BaseTunerLayer under public names.

A tuner subclasses `Tuner`; its layers replace modules (`TunerLayer`). Those of a `HookedTuner` hook whole stacks
(`HookLayer`).
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, set_additional_trainable_modules
from torch import nn
from torch.utils.hooks import RemovableHandle


class TunerLayer(nn.Module, BaseTunerLayer):
    """A layer with adapters by name; PEFT sets which are frozen, disabled or active."""

    def __init__(self, active_adapters: str | Sequence[str] = ()) -> None:
        super().__init__()
        self._active_adapter = active_adapters if isinstance(active_adapters, str) else list(active_adapters)
        self._handles: list[RemovableHandle] = []  # of hooks on the base

    def remove_hooks(self) -> None:
        """Restore the base: remove the hooks on it."""
        for handle in self._handles:
            handle.remove()

    def move_to_base(self, adapter_name: str) -> None:
        """Move an adapter to the device of the base layer."""
        device = next((weight.device for weight in self.get_base_layer().parameters()), None)
        self._move_adapter_to_device_of_base_layer(adapter_name, device)

    def cast(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Cast an input to the dtype of an adapter, unless PEFT's casting is switched off."""
        return self._cast_input_dtype(x, dtype)  # type: ignore[no-any-return]


class HookLayer(TunerLayer):
    """A child of a stack whose hooks change the stack's computation; it is not called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.example_names: list[str] | None = None  # the adapter of each example of the batch

    def active_names(self) -> list[str]:
        """Return the names of the adapters for the current batch, in order; an empty list where they are disabled."""
        if self.disable_adapters:
            return []
        names = self.active_adapters if self.example_names is None else dict.fromkeys(self.example_names)
        return [name for name in names if name in getattr(self, self.adapter_layer_names[0])]

    def adapter_indices(self, names: list[str], batch: int, device: torch.device) -> torch.Tensor:
        """Return for each example the index of its adapter, or -1; beam search repeats examples in their order."""
        assert self.example_names is not None
        each = _repeated(self.example_names, batch)
        return torch.tensor([names.index(name) if name in names else -1 for name in each], device=device)


class Tuner(BaseTuner):
    """A tuner whose layers replace modules, and cannot be merged."""

    merge_error: str  # why its weights cannot be merged into the base
    tuner_layer_cls = TunerLayer

    def add_layer(self, config: Any, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module) -> None:
        """Add an adapter to a target; a target that is not a `TunerLayer` yet is replaced by one."""

    def prepare(self, config: Any, model: nn.Module) -> None:
        """Check and complete a config before the model changes; `peft_config` has it and the existing ones.

        Raises:
            ValueError: it does not match the model or the other adapters.
        """

    @classmethod
    def is_target(cls, config: Any, name: str) -> bool:
        """Return whether a module that `config.target_modules` names gets an adapter."""
        return True

    def unload(self) -> nn.Module:
        """Return the base without any adapter."""
        for parent in list(self.model.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, TunerLayer):
                    layer.remove_hooks()
                if isinstance(layer, HookLayer):
                    delattr(parent, name)
        return super().unload()

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
        """Restore a module on unload; PEFT would copy its weight, which a module of several layers does not have."""
        setattr(parent, child_name, new_module)

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        return peft_config  # `prepare` does it

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        self.prepare(peft_config, model)
        name = type(peft_config).__name__
        check_values(
            (not hasattr(peft_config, "target_modules"), f"{name} has no field target_modules; add it"),
            (
                getattr(peft_config, "target_modules", "") is None,
                f"{name} has no target modules; set target_modules='all-linear', or names of modules",
            ),
        )

    @classmethod
    def _check_target_module_exists(cls, peft_config: PeftConfig, key: str) -> bool:  # type: ignore[override]
        return bool(super()._check_target_module_exists(peft_config, key)) and cls.is_target(peft_config, key)

    def _check_merge_allowed(self) -> None:
        raise ValueError(f"{self.merge_error}; use unload()")

    @contextmanager
    def _enable_peft_forward_hooks(self, *_: Any, **kwargs: Any) -> Iterator[None]:
        """Apply to each example of a batch the adapter that `adapter_names` gives; without names change nothing.

        Layers and fully trained modules receive the names with every call. Layers that hook a stack are not called
        themselves and read them from their attribute `example_names`.

        Raises:
            ValueError: the model is in training mode, or a name is unknown.
        """
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        unknown = sorted(set(names) - set(self.peft_config) - {"__base__"})
        check_values(
            (self.training, "adapter_names mixes adapters in inference only; call model.eval() first"),
            (bool(unknown), f"adapter_names={', '.join(unknown)}: unknown; loaded are {', '.join(self.peft_config)}"),
        )
        hooking = [module for module in self.modules() if isinstance(module, HookLayer)]
        called = [module for module in self.modules() if isinstance(module, (TunerLayer, AuxiliaryTrainingWrapper))]
        add_names = partial(_add_names, names=list(names))
        handles = [module.register_forward_pre_hook(add_names, with_kwargs=True) for module in called]
        try:
            for layer in hooking:
                layer.example_names = list(names)
            yield
        finally:
            for layer in hooking:
                layer.example_names = None
            for handle in handles:
                handle.remove()


class HookedTuner(Tuner):
    """A tuner whose layers hook the stacks of a model (soft prompts, weighted sums of layers) and replace nothing."""

    @abstractmethod
    def attach(self, model: nn.Module, adapter_name: str, config: Any, is_loaded: bool) -> list[nn.Module]:
        """Add a newly initialized adapter to the stacks, which may have others; return those that were modified.

        `is_loaded`: saved weights will replace the initial ones.
        """

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Add a newly initialized adapter to the model, which may have others."""
        config = self.peft_config[adapter_name]
        modified = self.attach(model, adapter_name, config, is_loaded=low_cpu_mem_usage or bool(state_dict))
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        self._mark_only_adapters_as_trainable(model)
        set_additional_trainable_modules(
            model=model,
            peft_config=config,
            model_config=BaseTuner.get_model_config(self),
            adapter_name=adapter_name,
            activate_adapter=adapter_name in self.active_adapters,
        )
        self.targeted_module_names = [name for name, module in model.named_modules() if module in modified]


def check_values(*faults: tuple[bool, str]) -> None:
    """Raise ValueError with the message of the first fault that is true."""
    for is_fault, message in faults:
        if is_fault:
            raise ValueError(message)


def _repeated(names: Sequence[str], examples: int) -> list[str]:
    """Return the name of each example of a batch: beam search repeats every example.

    Raises:
        ValueError: the batch size is not a multiple of the number of names.
    """
    if examples % len(names):
        raise ValueError(f"adapter_names has {len(names)} names for a batch of {examples}; pass one name per example")
    return [name for name in names for _ in range(examples // len(names))]


def _add_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "adapter_names": _repeated(names, len(args[0]))}
