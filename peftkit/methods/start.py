"""Loading the weights of a saved adapter or model into one of the same method, with its head or without."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from peftkit.config.families import HEAD_SUBMODULES
from peftkit.methods.native import is_head

PEFT_PREFIX = "base_model.model."


class WeightMismatchError(Exception):
    """Saved weights are not those of the model; the message states the first that differs."""


@dataclass(frozen=True)
class LoadedWeights:
    """Names of the weights that were loaded, and of those without a place in the model.

    `head` is kept or new, or none where the model has none of its own.
    """

    loaded: list[str]
    left_out: list[str]
    head: str


@torch.no_grad()
def load_weights(model: Any, folder: Path, with_head: bool) -> LoadedWeights:
    """Load the weights that `export_artifact` or PEFT saved into a model to which the same method was applied.

    Names may have another prefix for the base, as with another head over it. What is below the output of a head, such
    as a pooler, is loaded wherever both have it.

    Args:
        folder: of an adapter, or of a whole model.
        with_head: whether the head's output is loaded too; otherwise it keeps its weights.

    Raises:
        WeightMismatchError: a weight below the head is missing on one side, or has another shape.
    """
    is_peft = isinstance(model, PeftModel)
    base = model.get_base_model() if is_peft else model
    own = get_peft_model_state_dict(model, save_embedding_layers=False) if is_peft else model.state_dict()
    files = [] if is_peft else sorted(folder.glob("*.safetensors"))
    found = load_peft_weights(str(folder), device="cpu") if is_peft else {}
    for file in files:
        found |= load_file(file)
    prefix = f"{base.base_model_prefix}."
    places = {_below(name, prefix): name for name in own}
    weights = {_below(name, prefix): weight for name, weight in found.items()}
    chosen = {name for name in weights if name in places and (with_head or not _is_output(name))}
    loaded = {places[name]: weights[name] for name in chosen}
    _check(weights, {name: own[place] for name, place in places.items()}, chosen)
    if is_peft:
        set_peft_model_state_dict(model, {**own, **loaded})
    else:
        for name, weight in loaded.items():
            own[name].copy_(weight)
    outputs = {name for name in places if _is_output(name)}
    head = "kept" if outputs and outputs <= chosen else "new" if outputs else "none"
    left_out = [name for name in weights if name not in places and not _is_output(name)]
    return LoadedWeights(sorted(loaded), left_out, head)


def trained_names(model: nn.Module) -> set[str]:
    """Return the names of the weights that train."""
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def _below(name: str, prefix: str) -> str:
    """Return a weight's name without the prefixes of PEFT and of the base."""
    return name.removeprefix(PEFT_PREFIX).removeprefix(prefix)


def _is_output(name: str) -> bool:
    """Return whether a weight belongs to a head, and not to a part of it that other heads may have, too."""
    return is_head(name) and HEAD_SUBMODULES.isdisjoint(name.split("."))


def _may_lack(name: str) -> bool:
    """Return whether a weight is of a head, or of an output layer over the vocabulary."""
    return is_head(name) or "lm_head" in name.split(".")


def _check(found: Mapping[str, Any], own: Mapping[str, Any], chosen: set[str]) -> None:
    """Compare what is below the heads.

    Raises:
        WeightMismatchError: it differs.
    """
    pointers = {own[name].data_ptr() for name in chosen}  # of a tied weight, one name is saved
    for name in sorted(own.keys() - found.keys()):
        if not _may_lack(name) and own[name].data_ptr() not in pointers:
            raise WeightMismatchError(f"it has no {name}")
    for name in sorted(found.keys() - own.keys()):
        if not _may_lack(name):
            raise WeightMismatchError(f"its {name} is not in this model")
    for name in sorted(chosen):
        if found[name].shape != own[name].shape:
            shapes = (tuple(each[name].shape) for each in (found, own))
            raise WeightMismatchError("its {} has the shape {}, here {}".format(name, *shapes))
