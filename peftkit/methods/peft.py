"""Applying a method to a model, and loading its saved weights."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from peft import (
    AdaLoraModel,
    PeftConfig,
    PeftModel,
    PeftType,
    PrefixTuningConfig,
    get_peft_model,
    load_peft_weights,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from torch import nn
from transformers import PreTrainedModel

from peftkit.compat.peft import ModulesToSaveWrapper, fill_target_modules, ignored_tie_warnings
from peftkit.compat.transformers import Conv1D, number_of_weights
from peftkit.config import Refusal, UserError, refusal
from peftkit.config.checks.untrusted import adapter_errors
from peftkit.config.families import base_type, family_of
from peftkit.config.kinds import DECODER, ENCODER, KINDS, SEQ2SEQ
from peftkit.methods.native import is_head, keep_bias, with_new_token_rows

OWN_CLASS = "~method.config._target_"  # of method=peft, which a fix drops
CONVERT = "if you trust it, load it in PEFT and save it again, which writes safetensors"
MISSING_WEIGHTS = "Found missing adapter keys"  # of PEFT's warning


@dataclass(frozen=True)
class Parameters:
    """Numbers of weights: those that train (including the head's), the head's, and all."""

    trainable: int
    head: int
    total: int


def apply_method(
    model: PreTrainedModel,
    config: Any,
    kind: str = "classification",
    quantized: bool = False,
    gradient_checkpointing: bool = False,
    new_rows: Sequence[int] = (),
) -> nn.Module:
    """Apply a method for a kind of task: a PEFT config, or one of peftkit's that has `apply(model)`.

    The embedding rows `new_rows`, ids of tokens that the base lacks, train too and are saved with the adapter.
    New weights are initialized from torch's global generator: set the seed first.

    Raises:
        UserError: the method does not work on this model.
    """
    if new_rows:
        config = with_new_token_rows(config, model, new_rows)
    if not isinstance(config, PeftConfig):
        return config.apply(model)
    if quantized:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=gradient_checkpointing)
    architecture = DECODER if model.can_generate() else ENCODER
    architecture = SEQ2SEQ if model.config.is_encoder_decoder else architecture
    config.task_type = config.task_type or KINDS[kind].task_types.get(architecture)
    _set_modules_to_save(config, model)
    _fill_targets(config, model)
    backbone = getattr(model, model.base_model_prefix, model)
    if isinstance(config, PrefixTuningConfig) and "past_key_values" not in signature(backbone.forward).parameters:
        wrong = f"PEFT's prefix tuning needs past_key_values, which {model.config.model_type} lacks"
        raise UserError(Refusal(f"{wrong}; use method=prefix", f"method=prefix {OWN_CLASS}"))
    try:
        _refuse_unused_embeddings(config, model)
        with ignored_tie_warnings():
            return keep_bias(get_peft_model(model, config))
    except (ValueError, TypeError) as error:
        raise UserError(_does_not_fit(config, model.config.model_type, error)) from error


def _does_not_fit(config: PeftConfig, model_type: str, error: Exception) -> Refusal:
    """Return the refusal of a method that neither the user nor PEFT chose modules for, or that fails on a model."""
    method = str(getattr(config.peft_type, "value", config.peft_type)).lower()
    if "target_modules" in str(error) and getattr(config, "target_modules", "") is None:
        names = ["target_modules=all-linear", *["feedforward_modules=[]"] * hasattr(config, "feedforward_modules")]
        fix = " ".join(f"method.config.{name}" for name in names)
        return refusal(f"{method} has no target modules for {model_type}", fix, verb="set")
    other = "full" if config.peft_type == PeftType.LORA else "lora"
    wrong = f"{method} does not fit {model_type}: {error}"
    return Refusal(f"{wrong}; use method={other}", f"method={other} {OWN_CLASS}")


def _set_modules_to_save(config: PeftConfig, model: PreTrainedModel) -> None:
    """Add the fully trained modules that PEFT does not add by the type of the task.

    PEFT's model for questions drops token_type_ids, by which BERT separates question and passage: that kind of task
    has no type in PEFT, and its head is added here.
    """
    # pre_classifier: PEFT would save it by its name, but also add its own layers to it
    named = {name for name in ("pre_classifier", "qa_outputs", "qa_classifier") if hasattr(model, name)}
    # newly initialized, and no base contains them; PEFT adds classifiers by the type of the task
    new = {*getattr(model, "new_head", ()), *getattr(model, "missing_heads", ())} - {"classifier", "score"}
    whole = named | new
    if whole:
        config.modules_to_save = sorted({*(getattr(config, "modules_to_save", None) or ()), *whole})


def _refuse_unused_embeddings(config: PeftConfig, model: PreTrainedModel) -> None:
    """Refuse to adapt T5's or BART's `shared`, which is tied to the embeddings that are looked up, and trains nothing.

    Raises:
        ValueError: it is among the targets.
    """
    if getattr(config, "ensure_weight_tying", False):
        return  # PEFT adapts all of them
    saved = getattr(config, "modules_to_save", None) or ()
    for target, weight in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        name, source = target.rpartition(".")[0], weight.rpartition(".")[0]
        is_target = getattr(config, "target_modules", None) and check_target_module_exists(config, source)
        is_named = is_target or source.rpartition(".")[2] in saved
        if is_named and isinstance(model.get_submodule(name), nn.Embedding):
            raise ValueError(f"{source} is never called, tokens are looked up in {name}; use embed_tokens in its place")


def _fill_targets(config: PeftConfig, model: PreTrainedModel) -> None:
    """Set the target modules that the user did not name, also in peftkit's own classifiers."""
    model_type: str = model.config.model_type
    family = family_of(model_type)
    if hasattr(config, "fan_in_fan_out") and family is not None and family.is_transposed:
        config.fan_in_fan_out = True
    if getattr(config, "target_modules", None) == "all-linear":
        _name_linear_layers(config, model)
    if getattr(config, "target_modules", "") is not None or hasattr(config, "default_targets"):
        return  # peftkit's own tuners set their default targets
    if config.peft_type == PeftType.IA3 and family is not None and family.ia3 is not None:
        config.target_modules, config.feedforward_modules = family.ia3
    elif config.peft_type == PeftType.LN_TUNING and family is not None and family.norms:
        config.target_modules = list(family.norms)
    elif base_type(model_type) != model_type:
        fill_target_modules(config, base_type(model_type))


def _name_linear_layers(config: Any, model: PreTrainedModel) -> None:
    """Replace "all-linear" where PEFT would include heads: it excludes only that of a sequence classifier."""
    if config.task_type == "FEATURE_EXTRACTION":
        # a plain AutoModel, into which users load the adapter, has a pooler, which the adapter does not include
        config.target_modules = rf"(?!.*pooler).*\b({'|'.join(_linear_layers(model))})"
    # of a language model PEFT excludes the output layer
    elif config.task_type in ("TOKEN_CLS", None) and model.get_output_embeddings() is None:
        config.target_modules = _linear_layers(model)


def _linear_layers(model: nn.Module) -> list[str]:
    """Return the last parts of the names of all linear layers below the head."""
    names = (name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D)))
    return sorted({name.rpartition(".")[2] for name in names if not is_head(f"{name}.weight")})


def load_adapter(model: PreTrainedModel, folder: Path) -> nn.Module:
    """Load a saved adapter with its head over the base.

    Raises:
        UserError: its config could run code, or the file lacks some of the adapter's weights.
    """
    check_adapter(folder)
    with warnings.catch_warnings(), _complete(folder):
        warnings.filterwarnings("error", MISSING_WEIGHTS)
        # AdaLoRA's rank_pattern has the names of weights, where this warning expects modules
        warnings.filterwarnings("ignore", "The following rank_pattern keys", RuntimeWarning)
        with ignored_tie_warnings():
            loaded = PeftModel.from_pretrained(model, str(folder))
    keep_bias(loaded)
    if isinstance(loaded.base_model, AdaLoraModel) and "trainable_adapter_name" not in vars(loaded.base_model):
        loaded.base_model.trainable_adapter_name = loaded.active_adapter  # its forward pass reads it, also in inference
    return loaded


def check_adapter(folder: Path) -> None:
    """Check what an adapter of others could use to run code.

    Raises:
        UserError: its config could, or its weights are pickled.
    """
    file = folder / "adapter_config.json"
    errors = list(adapter_errors(json.loads(file.read_text(encoding="utf-8")))) if file.is_file() else []
    if errors:
        raise UserError(f"{file}: {'; '.join(errors)}")
    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file() and (folder / WEIGHTS_NAME).is_file():
        raise UserError(f"{folder / WEIGHTS_NAME} is refused: pickled weights can contain code; {CONVERT}")


@contextmanager
def _complete(folder: Path) -> Iterator[None]:
    """Refuse an adapter that PEFT loads with newly initialized weights in place of missing ones."""
    try:
        yield
    except UserWarning as warning:
        names = str(warning).partition("checkpoint: ")[2]
        raise UserError(f"{folder} lacks weights of the adapter: {names[:200]}; train the run again") from warning


def load_adapters(model: PreTrainedModel, folders: dict[str, Path]) -> PeftModel:
    """Load several saved adapters over one base, each with its head, under the names for `adapter_names`.

    A head with fewer labels than the base's is padded with rows of zeros.

    Raises:
        UserError: they cannot share a base.
    """
    loaded: Any = None
    for folder in folders.values():
        check_adapter(folder)
    kinds = {name: PeftConfig.from_pretrained(str(folder)) for name, folder in folders.items()}
    if len({config.peft_type for config in kinds.values()}) > 1:
        raise UserError(f"{', '.join(kinds)} were trained by different methods; choose runs of one method")
    try:
        for name, config in kinds.items():
            config.base_model_name_or_path = None  # PEFT warns where the base has another path than in training
            if loaded is None:
                loaded = get_peft_model(model, config, adapter_name=name)  # type: ignore[arg-type]
                heads = [module for module in loaded.modules() if isinstance(module, ModulesToSaveWrapper)]
                if several := next((head for head in heads if any(head.original_module.children())), None):
                    raise UserError(
                        f"{type(several.original_module).__name__} has several layers, which PEFT cannot choose for "
                        "each example; use run=DIR for each run"
                    )
            else:
                loaded.add_adapter(name, config)
            wanted, weights = loaded.state_dict(), load_peft_weights(str(folders[name]), device="cpu")
            for key, weight in weights.items():
                parent, _, leaf = key.rpartition(".")
                if (head := wanted.get(f"{parent}.modules_to_save.{name}.{leaf}")) is not None:
                    padding = [0, 0] * (weight.dim() - 1) + [0, len(head) - len(weight)]
                    weights[key] = nn.functional.pad(weight, padding)  # zeros for the missing labels
            set_peft_model_state_dict(loaded, weights, adapter_name=name)
    except ValueError as error:
        raise UserError(f"the runs' adapters cannot share a base: {error}") from error
    return loaded  # type: ignore[no-any-return]


def count_parameters(model: nn.Module) -> Parameters:
    """Count weights; packed bytes hold two."""
    # without PEFT's unchanged copy of the head, which is neither trained nor saved
    weights = [(name, weight) for name, weight in model.named_parameters() if "original_module" not in name]
    sizes = [(name, weight.requires_grad, number_of_weights(weight)) for name, weight in weights]
    return Parameters(
        trainable=sum(size for _, trains, size in sizes if trains),
        head=sum(size for name, trains, size in sizes if trains and is_head(name)),
        total=sum(size for *_, size in sizes),
    )
