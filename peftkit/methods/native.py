"""Methods that add no weights: full fine-tuning, linear probe, BitFit, and untrained baselines.

With any of them, the embedding rows of new tokens can train, without the other rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, TrainableTokensConfig
from torch import nn
from transformers import PreTrainedModel

from peftkit.compat.peft import DUMMY_TARGET_MODULES, TrainableTokensLayer
from peftkit.config import UserError, refusal
from peftkit.config.families import HEADS, LANGUAGE_MODEL_HEADS

# an output layer over the vocabulary, lm_head, is not a new head: it was pretrained, or is tied to the embeddings
HEAD_NAMES = HEADS | (LANGUAGE_MODEL_HEADS - {"lm_head"})


@dataclass(frozen=True)
class Full:
    """Full fine-tuning: every weight trains (Devlin et al. 2019, section 3.2)."""

    def apply(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(True)


@dataclass(frozen=True)
class Untuned:
    """Train nothing: the baseline of every other method."""

    def apply(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(False)


@dataclass(frozen=True)
class Prompting(Untuned):
    """Train nothing, and prompt the pretrained language model (Brown et al. 2020, section 2).

    `shots` training examples precede each input. `calibrate` divides the likelihood of a label by its likelihood after
    the end of the prompt only, without the input (section 2.4).
    """

    shots: int = 0
    calibrate: bool = False


@dataclass(frozen=True)
class LinearProbe:
    """Train the head only; a pooler that is in the checkpoint counts as base and stays unchanged."""

    def apply(self, model: nn.Module) -> nn.Module:
        for name, weight in model.named_parameters():
            weight.requires_grad_(_is_new_head(name, model))
        return model


@dataclass(frozen=True)
class LinearEstimator(LinearProbe):
    """Fit the head by scikit-learn: the smallest 1/2 |w|^2 + C * (sum of the losses of the training examples).

    Logistic regression of classes, one of each label where there are several, and ridge regression of numbers.
    """

    C: float = 1.0


@dataclass(frozen=True)
class BagOfWords(LinearEstimator):
    """Fit a linear model of TF-IDF; `max_features` are the most frequent words that are read, None all."""

    max_features: int | None = None

    def apply(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(True)


@dataclass(frozen=True)
class BitFit:
    """Train the bias terms and the head (Ben Zaken et al. 2022, section 3)."""

    def apply(self, model: nn.Module) -> nn.Module:
        if not any(name.endswith("bias") and not is_head(name) for name, _ in model.named_parameters()):
            raise UserError(refusal("no bias term below the head", "method=ln_tuning", "method=lora"))
        for name, weight in model.named_parameters():
            weight.requires_grad_(name.endswith("bias") or _is_new_head(name, model))
        return model


def _is_new_head(name: str, model: nn.Module) -> bool:
    """Return whether a parameter is the head's, or a newly initialized pooler's."""
    if name.partition(".")[0] in getattr(model, "missing_heads", ()):
        return True
    return is_head(name) and ("pooler" not in name or name.rpartition(".")[0] in getattr(model, "new_head", ()))


def is_head(name: str) -> bool:
    """Return whether a parameter belongs to a module above the pretrained base."""
    return not HEAD_NAMES.isdisjoint(name.split("."))


def with_new_token_rows(config: Any, model: PreTrainedModel, new_rows: Sequence[int]) -> Any:
    """Return a config that also trains these rows of the input embeddings and of an untied output layer.

    Full fine-tuning trains every row anyway. PEFT's TrainableTokensConfig cannot save a head; a LoRA without
    target layers trains the same rows, and can.

    Raises:
        UserError: the method cannot train single rows.
    """
    if isinstance(config, Full):
        return config
    if isinstance(config, TrainableTokensConfig):
        config = LoraConfig(r=1, target_modules=DUMMY_TARGET_MODULES, task_type=config.task_type)
    if not isinstance(config, PeftConfig) or not hasattr(config, "trainable_token_indices"):
        methods = [f"method={name}" for name in ("lora", "adapter", "qlora", "full")]
        raise UserError(refusal("this method cannot train the rows of vocab=", *methods))
    inputs, output, ids = model.get_input_embeddings(), model.get_output_embeddings(), list(new_rows)
    layers = [inputs] if output is None or output.weight is inputs.weight else [inputs, output]
    names = {name: ids for name, module in model.named_modules() if module in layers}
    config.trainable_token_indices = ids if len(names) == 1 else names
    return config


def keep_bias(model: nn.Module) -> nn.Module:
    """Add the bias of an output layer that is tied to trained rows, which PEFT 0.21's layer for it omits.

    BERT's masked language model head has such a bias. Where rows are merged or disabled, PEFT calls the layer itself.
    """
    for layer in model.modules():
        if isinstance(layer, TrainableTokensLayer) and getattr(layer.base_layer, "bias", None) is not None:
            layer.register_forward_hook(_with_bias)
    return model


def _with_bias(layer: Any, inputs: Any, out: torch.Tensor) -> torch.Tensor:
    is_active = layer.active_adapters and not layer.disable_adapters and not layer.merged
    return out + layer.base_layer.bias.to(out.dtype) if is_active else out


def embedding_rows(model: Any) -> torch.Tensor:
    """Return the input embeddings (vocabulary, dim), with the trained rows."""
    layers = (module for module in model.modules() if isinstance(module, TrainableTokensLayer))
    layer = next((layer for layer in layers if isinstance(layer.base_layer, nn.Embedding)), None)
    if layer is None or layer.merged:
        return model.get_input_embeddings().weight.detach()
    return layer.get_merged_weights(layer.active_adapters).detach()
