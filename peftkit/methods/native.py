"""Methods that add no weights: full fine-tuning, linear probe, BitFit, and none that train."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from peftkit.config import UserError
from peftkit.config.families import HEADS, LANGUAGE_MODEL_HEADS

# an output layer over the vocabulary, lm_head, is no fresh head: it was pretrained, or is tied to the embeddings
HEAD_NAMES = HEADS | (LANGUAGE_MODEL_HEADS - {"lm_head"})


@dataclass(frozen=True)
class Full:
    """Full fine-tuning: every weight trains (Devlin et al. 2019, section 3.2)."""

    def apply(self, model: nn.Module) -> nn.Module:
        model.requires_grad_(True)
        return model


@dataclass(frozen=True)
class Untuned:
    """Train nothing: the baseline of every other method."""

    def apply(self, model: nn.Module) -> nn.Module:
        model.requires_grad_(False)
        return model


@dataclass(frozen=True)
class Prompting:
    """Train nothing, and prompt the pretrained language model (Brown et al. 2020, section 2).

    `shots` training examples precede each input. `calibrate` divides the likelihood of a label by its likelihood after
    the end of the prompt alone, without the input (section 2.4).
    """

    shots: int = 0
    calibrate: bool = False

    def apply(self, model: nn.Module) -> nn.Module:
        model.requires_grad_(False)
        return model


@dataclass(frozen=True)
class LinearProbe:
    """Train the head alone; a pooler in the checkpoint counts as base and stays as it was pretrained."""

    def apply(self, model: nn.Module) -> nn.Module:
        for name, weight in model.named_parameters():
            weight.requires_grad_(_is_new(name, model))
        return model


@dataclass(frozen=True)
class BitFit:
    """Train the bias terms and the head (Ben Zaken et al. 2022, section 3)."""

    def apply(self, model: nn.Module) -> nn.Module:
        if not any(name.endswith("bias") and not is_head(name) for name, _ in model.named_parameters()):
            raise UserError("no bias term below the head; use method=ln_tuning or method=lora")
        for name, weight in model.named_parameters():
            weight.requires_grad_(name.endswith("bias") or _is_new(name, model))
        return model


def _is_new(name: str, model: nn.Module) -> bool:
    """Return whether a parameter is the head's, or a newly initialized pooler's."""
    return is_head(name) and ("pooler" not in name or name.rpartition(".")[0] in getattr(model, "fresh_head", ()))


def is_head(name: str) -> bool:
    """Return whether a parameter belongs to a module above the pretrained base."""
    return not HEAD_NAMES.isdisjoint(name.split("."))
