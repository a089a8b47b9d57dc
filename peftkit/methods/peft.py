"""Turn a model and a method's config into the model that trains, and a trained one back into a plain checkpoint."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft.utils as peft_utils
import torch
from peft import (
    AdaLoraModel,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    get_peft_model,
    load_peft_weights,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from peftkit.config import UserError
from peftkit.methods.native import is_head
from peftkit.methods.new_tokens import keep_bias, with_rows

MAPPINGS = {
    "LORA": "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING",
    "IA3": "TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING",
    "LN_TUNING": "TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING",
}
# the layer norms of families that PEFT knows none of
NORMS = {
    "bert": ["LayerNorm"],
    "roberta": ["LayerNorm"],
    "distilbert": ["LayerNorm", "sa_layer_norm", "output_layer_norm"],
}
# PEFT's names for kinds of tasks; by them it saves heads. Its model for QUESTION_ANS drops token_type_ids, by which
# BERT tells question and passage apart, so that this kind goes without a name and its head is named instead
TASK_TYPES = {
    "token_classification": "TOKEN_CLS", "question_answering": None, "causal_lm": "CAUSAL_LM",
    "preferences": "CAUSAL_LM", "retrieval": "FEATURE_EXTRACTION",
}  # fmt: skip
UNMERGEABLE = ("BOTTLENECK", "SOFT_PROMPT", "LAYER_MIX", "MIX")
# PEFT's "output.dense" also meets the attention's output; the paper (section 3.3) has keys, values, inner feed-forward
IA3_PLACES = {
    "bert": (r".*\.self\.(key|value)|.*\.layer\.\d+\.output\.dense", r".*\.layer\.\d+\.output\.dense"),
    "roberta": (r".*\.self\.(key|value)|.*\.layer\.\d+\.output\.dense", r".*\.layer\.\d+\.output\.dense"),
    "distilbert": (r".*\.(k_lin|v_lin|lin2)", r".*\.lin2"),
}


@dataclass(frozen=True)
class Parameters:
    """Numbers of weights: those that train (the head among them), the head's, and all."""

    trainable: int
    head: int
    total: int


def wrap(
    model: PreTrainedModel,
    config: Any,
    kind: str = "classification",
    quantized: bool = False,
    gradient_checkpointing: bool = False,
    new_rows: Sequence[int] = (),
) -> nn.Module:
    """Apply a method for a kind of task: a PEFT config, or one of our own that has `apply(model)`.

    The embeddings' `new_rows`, ids of tokens that the base never had, train with it and are saved with the adapter.
    Draws fresh weights from torch's global generator: seed it first.

    Raises:
        UserError: the method cannot work on this model.
    """
    if new_rows:
        config = with_rows(config, model, new_rows)
    if not isinstance(config, PeftConfig):
        return config.apply(model)
    if quantized:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=gradient_checkpointing)
    config.task_type = config.task_type or _task_type(model, kind)
    if kind == "question_answering" and hasattr(config, "modules_to_save"):
        config.modules_to_save = sorted({*(config.modules_to_save or ()), "qa_outputs"})
    elif kind == "question_answering":
        raise UserError("PEFT's own soft prompts train on spans that they move; try method=prompt or method=prefix")
    whole = {*getattr(model, "fresh_head", ())}  # it learns from nothing, and no base has it
    if hasattr(model, "pre_classifier"):  # by its name PEFT saves it whole, and would wrap it all the same
        whole.add("pre_classifier")
    if whole:
        config.modules_to_save = sorted({*(getattr(config, "modules_to_save", None) or ()), *whole})
    _fill_targets(config, model)
    if isinstance(config, PrefixTuningConfig):
        _check_prefix(model)
    try:
        return keep_bias(get_peft_model(model, config))
    except (ValueError, TypeError) as error:
        kind = str(getattr(config.peft_type, "value", config.peft_type)).lower()
        raise UserError(f"{kind} does not fit {model.config.model_type}: {error}; try method=lora") from error


def _task_type(model: PreTrainedModel, kind: str) -> str | None:
    """Return PEFT's name for a kind of task; it has none for masked words."""
    is_seq2seq = model.config.is_encoder_decoder
    if kind in ("instructions", "language_modeling") and not is_seq2seq:
        return "CAUSAL_LM" if model.can_generate() else None
    return TASK_TYPES.get(kind, "SEQ_2_SEQ_LM" if is_seq2seq else "SEQ_CLS")


def load_adapter(model: PreTrainedModel, folder: Path) -> nn.Module:
    """Load a saved adapter, head included, over its base."""
    with warnings.catch_warnings():
        # AdaLoRA's ranks are named after weights, which this warning takes for modules
        warnings.filterwarnings("ignore", "The following rank_pattern keys", RuntimeWarning)
        loaded = PeftModel.from_pretrained(model, str(folder))
    keep_bias(loaded)
    if isinstance(loaded.base_model, AdaLoraModel) and "trainable_adapter_name" not in vars(loaded.base_model):
        loaded.base_model.trainable_adapter_name = loaded.active_adapter  # its forward pass asks, to infer too
    return loaded


def load_adapters(model: PreTrainedModel, folders: dict[str, Path]) -> PeftModel:
    """Load several saved adapters over one base, each with its head, by the names that `adapter_names` will give.

    A head of fewer labels than the base's fills its first rows.

    Raises:
        UserError: they are of kinds that cannot share a base.
    """
    loaded: Any = None
    kinds = {name: PeftConfig.from_pretrained(str(folder)) for name, folder in folders.items()}
    if len({config.peft_type for config in kinds.values()}) > 1:
        raise UserError(f"{', '.join(kinds)} were trained by methods of unlike kinds; mix runs of one method")
    try:
        for name, config in kinds.items():
            if loaded is None:
                loaded = get_peft_model(model, config, adapter_name=name)  # type: ignore[arg-type]
                _check_head(loaded)
            else:
                loaded.add_adapter(name, config)
            wanted = loaded.state_dict()
            weights = load_peft_weights(str(folders[name]), device="cpu")
            for key in weights:
                parent, _, leaf = key.rpartition(".")
                head = wanted.get(f"{parent}.modules_to_save.{name}.{leaf}")
                if head is not None:
                    weights[key] = _filled(weights[key], head)
            set_peft_model_state_dict(loaded, weights, adapter_name=name)
    except ValueError as error:
        raise UserError(f"the runs' adapters do not go together: {error}") from error
    return loaded  # type: ignore[no-any-return]


def _check_head(model: nn.Module) -> None:
    saved = (module.original_module for module in model.modules() if isinstance(module, ModulesToSaveWrapper))
    if several := next((module for module in saved if any(module.children())), None):
        raise UserError(
            f"{type(several).__name__} has several layers, which PEFT cannot exchange from row to row; "
            "use run=, one after the other"
        )


def _filled(weight: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return a head's weight (labels, ...) with zeros for the labels that it lacks."""
    out = torch.zeros(wanted.shape, dtype=weight.dtype)
    out[: len(weight)] = weight
    return out


def count_parameters(model: nn.Module) -> Parameters:
    """Count weights; a 4-bit weight counts as the weights it stores, not as its packed bytes."""
    trainable = head = total = 0
    for name, weight in model.named_parameters():
        if "original_module" in name:  # PEFT's untouched copy of the head, never trained nor shipped
            continue
        # bitsandbytes packs two 4-bit weights in a byte
        size = weight.numel() * (2 if weight.__class__.__name__ == "Params4bit" else 1)
        total += size
        if weight.requires_grad:
            trainable += size
            head += size if is_head(name) else 0
    return Parameters(trainable, head, total)


def is_mergeable(model: nn.Module) -> bool:
    """Tell whether the method's weights fold into the base."""
    if not isinstance(model, PeftModel):
        return True
    return isinstance(model.base_model, BaseTuner) and model.active_peft_config.peft_type.value not in UNMERGEABLE


def merge(model: nn.Module) -> nn.Module:
    """Fold the adapter into its base and return a plain model.

    Raises:
        UserError: the method's weights do not fold into the base.
    """
    if not is_mergeable(model):
        kind = str(model.active_peft_config.peft_type.value).lower()  # type: ignore[union-attr, operator]
        raise UserError(
            f"{kind} cannot be merged: it is no linear change of the base's weights; "
            "keep the adapter folder, or train method=lora or method=ia3"
        )
    if not isinstance(model, PeftModel):
        return model
    base = model.get_base_model()
    for name, module in list(base.named_modules()):
        # PEFT gives a head a weight of its own, which RoBERTa's has none of; LN tuning would leave it in its wrapper
        if isinstance(module, ModulesToSaveWrapper):
            base.set_submodule(name, module.unload_and_optionally_merge_module(True, False, None))
    return model.merge_and_unload()  # type: ignore[operator, no-any-return]


def _linear_layers(model: nn.Module) -> list[str]:
    """Return the names of all linear layers below the head."""
    modules = ((name, module) for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D)))
    return sorted(name for name, _ in modules if not is_head(f"{name}.weight"))


def _last_names(names: Sequence[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})


def _fill_targets(config: PeftConfig, model: PreTrainedModel) -> None:
    """Name the target modules where the user did not: PEFT's own places, for our mean-pooling classifiers too."""
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    model_type = model.config.model_type.removeprefix("mean_pooling_").removesuffix("_encoder")
    if hasattr(config, "fan_in_fan_out") and model_type == "gpt2":
        config.fan_in_fan_out = True  # GPT-2's Conv1D stores its weight transposed
    has_head = model.get_output_embeddings() is None  # PEFT knows an output layer over the vocabulary
    if getattr(config, "target_modules", None) == "all-linear" and config.task_type in ("TOKEN_CLS", None) and has_head:
        # PEFT leaves out the head of a sequence classifier alone; another's would be wrapped, and saved whole too
        config.target_modules = _last_names(_linear_layers(model))
    if getattr(config, "target_modules", None) == "all-linear" and config.task_type == "FEATURE_EXTRACTION":
        # who loads the adapter over a plain AutoModel has a pooler again, which no adapter is for
        config.target_modules = rf"(?!.*pooler).*\b({'|'.join(_last_names(_linear_layers(model)))})"
    if not hasattr(config, "target_modules") or config.target_modules is not None or hasattr(config, "places"):
        return  # our own configs know their places themselves
    if kind == "IA3" and model_type in IA3_PLACES:
        config.target_modules, config.feedforward_modules = IA3_PLACES[model_type]
        return
    if kind == "LN_TUNING" and model_type in NORMS:
        config.target_modules = NORMS[model_type]
        return
    name = MAPPINGS.get(kind, f"TRANSFORMERS_MODELS_TO_{kind}_TARGET_MODULES_MAPPING")
    places = getattr(peft_utils, name, None) or getattr(peft_utils.constants, name, {})
    if model_type in places:
        config.target_modules = places[model_type]
    if kind == "IA3" and model_type in peft_utils.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING:
        config.feedforward_modules = peft_utils.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[model_type]
    if config.target_modules is None:
        warnings.warn(f"no known places for {kind} in {model_type}; PEFT will ask for target_modules", stacklevel=2)


def _check_prefix(model: PreTrainedModel) -> None:
    """Refuse PEFT's own prefix tuning where it has no way in; method=prefix goes another way, and needs none."""
    backbone = getattr(model, model.base_model_prefix, model)
    if "past_key_values" not in inspect.signature(backbone.forward).parameters:
        raise UserError(
            f"PEFT's prefix needs past_key_values, which {model.config.model_type} lacks; try method=prefix"
        )
