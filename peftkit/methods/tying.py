"""Models of several tasks over one body: the later ones get the parameters of the first that has them."""

from collections.abc import Sequence
from typing import Any

from peft import PeftModel
from torch import nn

from peftkit.methods.native import is_head

WRAPPED = ("modules_to_save", "original_module")  # copies of a module that an adapter trains as a whole


def tie_models(models: Sequence[nn.Module], frozen_only: bool = False) -> None:
    """Replace the parameters of models by those of the first model that has them, except those of heads.

    The models are of one checkpoint and one method. Modules keep their own buffers. A pooler counts as part of a head
    where it is newly initialized; one of the checkpoint is shared. Output layers over the vocabulary are shared too.

    Args:
        frozen_only: share only what does not train, such that each model keeps its own adapter.
    """
    shared: dict[str, nn.Parameter] = {}
    for model in models:
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        body = next(name for name, module in model.named_modules() if module is base.base_model)
        names: dict[nn.Parameter, list[str]] = {}  # a tied parameter has several
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(parameter, []).append(name)
        for parameter, own in names.items():
            is_shared = not (frozen_only and parameter.requires_grad)
            keys = [_key(name, body) for name in own if is_shared and not is_task_head(name, base)]
            found = next((shared[key] for key in keys if key in shared), parameter)
            for name in own if keys else ():
                owner, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(owner), leaf, found)
            shared |= {key: found for key in keys if key not in shared}


def is_task_head(name: str, base: nn.Module) -> bool:
    """Return whether a parameter belongs to the head of a task, which other tasks do not share.

    Args:
        name: in the model with its method.
        base: without the method.
    """
    if not is_head(name):
        return False
    module = name.removeprefix("base_model.model.").rpartition(".")[0]
    is_own = any(part in WRAPPED for part in name.split(".")) or module in getattr(base, "new_head", ())
    return "pooler" not in name or is_own


def _key(name: str, body: str) -> str:
    """Return a name that does not depend on the class of the head, by which classes call their body."""
    return f"body.{name.removeprefix(f'{body}.')}" if body and name.startswith(f"{body}.") else name
