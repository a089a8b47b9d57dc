"""Turn PEFT's tuner, which replaces modules, into one whose layers hook the stacks that a text runs through."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import AuxiliaryTrainingWrapper, set_additional_trainable_modules
from torch import nn

from peftkit.methods.mixed_batch import named_rows


def pooled(stack: Any, states: torch.Tensor) -> torch.Tensor:
    """Return what a backbone's own pooler makes of states (batch, tokens, width); ALBERT's is no module but two."""
    if hasattr(stack, "pooler_activation"):
        return stack.pooler_activation(stack.pooler(states[:, 0]))  # type: ignore[no-any-return]
    return stack.pooler(states)  # type: ignore[no-any-return]


class HookedTuner(BaseTuner):
    """What soft prompts and mixes of layers share: a model's stacks stay where they are and get hooks."""

    def _hook(self, model: nn.Module, adapter_name: str, config: PeftConfig, is_loaded: bool) -> list[nn.Module]:
        """Give the stacks, which may have adapters already, a fresh one; return those that were reached.

        `is_loaded` tells that saved weights will replace the fresh ones.
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
        reached = self._hook(model, adapter_name, config, is_loaded=low_cpu_mem_usage or bool(state_dict))
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

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)  # PEFT would hand its weight on, which a head of layers does not have

    def _create_and_replace(self, *_: Any, **__: Any) -> None:
        """Do nothing: a stack is hooked, not replaced."""

    def _enable_peft_forward_hooks(self, *_: Any, **kwargs: Any) -> AbstractContextManager[None]:
        """Hand `adapter_names`, one for each row of the batch, to every stack and every saved module."""
        return named_rows(self, AuxiliaryTrainingWrapper, kwargs.get("adapter_names"))
