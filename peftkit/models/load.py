"""Loading a checkpoint: its config, and the model with the head of a kind of task."""

from importlib import import_module
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from peftkit.compat.transformers import disable_weight_packing
from peftkit.config import ModelConfig, UserError, refusal
from peftkit.config.families import (
    HEAD_SUBMODULES,
    OWN_CLASSIFIERS,
    UNSUPPORTED,
    base_type,
    declared_family,
    family_of,
    suggested_model,
)
from peftkit.config.kinds import DECODER, ENCODER, KINDS, SEQ2SEQ, TaskKind
from peftkit.config.progress import stage
from peftkit.config.quoting import typed
from peftkit.config.source import Source
from peftkit.models.checkpoints import checkpoint_path, hub_arguments, load_pretrained_config, vector_pooling
from peftkit.models.classifiers import T5EncoderConfig
from peftkit.models.heads import (
    Backbone,
    config_arguments,
    is_above_base,
    loading_class,
    sequence_config,
)
from peftkit.models.layers import keep_layers
from peftkit.models.quantization import quantization_config


def load_config(model: ModelConfig, source: Source) -> PretrainedConfig:
    """Load the checkpoint's config; only T5's encoder where the model is an encoder.

    Raises:
        UserError: the checkpoint's architecture is not `model.family`.
    """
    config = _read_config(source)
    model_type = config.model_type
    if model_type in UNSUPPORTED:
        wrong = f"{source.name} is not supported: {UNSUPPORTED[model_type]}"
        raise UserError(refusal(wrong, "model=roberta ~model.checkpoint", "model=gpt2 ~model.checkpoint"))
    if declared_family(model.family, model.stand_in).encoder_of == model_type:
        return T5EncoderConfig(**config_arguments(config))
    architecture = architecture_of(config)
    if architecture != model.family:
        wrong = f"{source.name} is a {model_type} ({architecture}), but model={model.name} expects a {model.family}"
        other = suggested_model(architecture, model_type)
        raise UserError(refusal(wrong, f"model={other} {typed('model.checkpoint', model.checkpoint)}"))
    return config


def _read_config(source: Source) -> PretrainedConfig:
    """Return a checkpoint's config; of one of peftkit's classifiers that of its encoder, see `pooling_of`."""
    config = load_pretrained_config(source)
    if not config.model_type.startswith(OWN_CLASSIFIERS):
        return config
    return AutoConfig.for_model(base_type(config.model_type), **config_arguments(config))


def architecture_of(config: PretrainedConfig) -> str:
    """Return encoder, decoder or seq2seq: by the family's record, or by transformers' masked language models."""
    if config.is_encoder_decoder:
        return SEQ2SEQ
    if family := family_of(config.model_type):
        return family.architecture
    return ENCODER if type(config) in MODEL_FOR_MASKED_LM_MAPPING else DECODER


def pooling_of(model: ModelConfig, source: Source) -> str | None:
    """Return cls or mean for an encoder: of the config, else of the checkpoint, otherwise cls."""
    if model.family != ENCODER:
        return None
    return "mean" if vector_pooling(model, source) == "mean" else "cls"


@stage("loading the model")
def load_model(
    model: ModelConfig,
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    label_names: list[str] | None,
    quantization: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Load a model with the head of a kind of task: over `label_names`, or with one output where they are None.

    A new head is initialized from torch's global generator: set the seed first. With `quantization` (the arguments of
    transformers' BitsAndBytesConfig) the linear layers of the base are stored in 4 or 8 bits; the head is not.

    Raises:
        UserError: the checkpoint has another architecture, or none of the model's weights.
    """
    config, auto = load_config(model, source), auto_class(model.family, kind)
    if auto is Backbone:
        backbone = read_checkpoint(auto, source, config, quantization, model.attn_implementation)[0]
        backbone.config.vector_pooling = vector_pooling(model, source)
        return backbone if model.keep_layers is None else keep_layers(backbone, model.keep_layers)
    if KINDS[kind].has_sequence_head:
        config = sequence_config(config, pooling_of(model, source), model.pairs)
    labels = [str(label) for _, label in sorted(config.id2label.items())]
    if not auto.__name__.endswith("LM"):
        size_head(config, KINDS[kind], label_names)
        if model.family == DECODER:  # its head reads the last token that is no padding; RoBERTa counts positions by it
            config.pad_token_id = tokenizer.pad_token_id
    loaded, missing = read_checkpoint(auto, source, config, quantization, model.attn_implementation)
    if all(name in missing for name, _ in loaded.named_parameters()):
        raise UserError(
            f"{source.name} has none of the weights of {type(loaded).__name__}, so all would be newly initialized; "
            "choose another task or another model.checkpoint"
        )
    if model.keep_layers is not None:
        keep_layers(loaded, model.keep_layers)
    below = {name for name in missing if not HEAD_SUBMODULES.isdisjoint(name.split("."))}
    base = {name for name in missing - below if name.startswith(f"{loaded.base_model_prefix}.")}
    is_masked = auto.__name__.endswith("MaskedLM")
    loaded.new_head = _new_head_modules(loaded, missing) if is_masked else _modules_of(below)  # type: ignore[assignment]
    loaded.new_base_weights = sorted(base)  # type: ignore[assignment]
    heads = set() if auto.__name__.endswith("LM") else {name.partition(".")[0] for name in missing - below - base}
    loaded.missing_heads = sorted(heads)  # type: ignore[assignment]
    is_same_size = not hasattr(loaded, "replaced_outputs")
    own_head = (name for name, _ in loaded.named_parameters() if is_above_base(loaded, name))
    if is_same_size and any(name not in missing for name in own_head):
        loaded.head_labels = reorder_head(loaded, labels, label_names or labels)  # type: ignore[assignment]
    return loaded


def load_language_model(
    source: Source, tokenizer: PreTrainedTokenizerBase, quantization: dict[str, Any] | None = None
) -> tuple[PreTrainedModel, str | None]:
    """Load a checkpoint with the language model head that it was pretrained with, in fp32, or its base in 4 or 8 bits.

    Returns:
        The model, and the reason why its loss is meaningless, None if it is not.
    """
    config = _read_config(source)
    architecture = architecture_of(config)
    model, missing = read_checkpoint(auto_class(architecture, "language_modeling"), source, config, quantization)
    # a head that is not in the checkpoint is newly initialized
    absent = min((name for name in missing if not name.startswith(f"{model.base_model_prefix}.")), default=None)
    faults = (
        (absent is not None, f"{source.name} has no language model head ({absent} is not in the checkpoint)"),
        (
            architecture == ENCODER and tokenizer.mask_token_id is None,
            f"the tokenizer of {source.name} has no mask token",
        ),
        (
            architecture == SEQ2SEQ and "<extra_id_0>" not in tokenizer.get_vocab(),
            f"the tokenizer of {source.name} has no sentinels for corrupted spans",
        ),
    )
    return model.eval(), next((reason for is_fault, reason in faults if is_fault), None)


def auto_class(architecture: str, kind: str) -> Any:
    """Return the class whose `from_pretrained` loads an architecture with the head of a kind of task."""
    module, _, name = KINDS[kind].heads[architecture].rpartition(":")
    return getattr(import_module(module) if module else transformers, name)


def read_checkpoint(
    auto: Any,
    source: Source,
    config: PretrainedConfig,
    quantization: dict[str, Any] | None,
    attention: str | None = None,
) -> tuple[PreTrainedModel, set[str]]:
    """Load a model by an Auto class; return it with the names of the weights that the checkpoint lacks.

    BigBird's sparse attention depends on the padding of a batch, and changes to full attention for good at the first
    short batch: it is loaded with full attention. A head of another size counts as missing; `replaced_outputs` of the
    model is the number of its outputs.

    Args:
        attention: eager or sdpa; None: sdpa where transformers has it.

    Raises:
        UserError: other weights have another size than the config states, or transformers lacks the attention.
    """
    if getattr(config, "attention_type", None) == "block_sparse":
        config.attention_type = "original_full"  # type: ignore[attr-defined]
    arguments: dict[str, Any] = {"config": config, "dtype": torch.float32, **hub_arguments(source)}
    arguments |= {"use_safetensors": True, "output_loading_info": True}
    if attention is not None:
        arguments["attn_implementation"] = attention
    arguments |= {"quantization_config": quantization_config(quantization)} if quantization else {}
    try:
        model, info = loading_class(auto, config).from_pretrained(
            checkpoint_path(source), ignore_mismatched_sizes=True, **arguments
        )
    except (ValueError, OSError) as error:
        if refused := _load_refusal(error, auto, source, config, attention):
            raise refused from error
        raise
    for name, size, expected in sorted(info["mismatched_keys"]):
        if not is_above_base(model, name):
            raise UserError(
                f"{source.name}: {name} has the shape {tuple(size)} in its file, but {tuple(expected)} by its "
                "config.json; use the config.json and the weights of one checkpoint"
            )
        model.replaced_outputs = size[0]
    if config.model_type == "big_bird" and hasattr(model.base_model, "pooler"):
        model.base_model.pooler = None  # no head uses it, so that it would train without a gradient
    missing = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if _renames_base(model) and missing.issuperset(name for name, _ in model.named_parameters()):
        base, info = loading_class(AutoModel, config).from_pretrained(checkpoint_path(source), **arguments)
        setattr(model, model.base_model_prefix, base)
        below = {name for name in missing if name.startswith(f"{model.base_model_prefix}.")}
        missing = missing - below | {f"{model.base_model_prefix}.{name}" for name in info["missing_keys"]}
    disable_weight_packing(model)
    return model, missing


def _load_refusal(
    error: Exception, auto: Any, source: Source, config: PretrainedConfig, attention: str | None
) -> UserError | None:
    """Return the sentence for an error of transformers that the user can correct, otherwise None."""
    if isinstance(error, OSError) and "safetensors" in str(error):
        return UserError(
            f"{source.name} has no .safetensors files, and others can contain code; use another checkpoint, or, if "
            "you trust its .bin file, download its folder and set model.checkpoint=FOLDER/pytorch_model.bin"
        )
    if "does not support an attention implementation" in str(error):
        wrong = f"model.attn_implementation={attention}: transformers has no such attention of {config.model_type}"
        return UserError(refusal(wrong, "model.attn_implementation=eager"))
    if str(error).startswith("Unrecognized configuration class"):
        return UserError(
            f"transformers has no {auto.__name__.removeprefix('Auto')} of {config.model_type}, the family of "
            f"{source.name}; choose another task or another model.checkpoint"
        )
    return None


def _renames_base(model: PreTrainedModel) -> bool:
    """Return whether the class calls its base as no other of its family: LlamaForQuestionAnswering's is transformer."""
    names = {vars(each).get("base_model_prefix") for each in type(model).__mro__} - {None, ""}
    return len(names) > 1


def size_head(config: PretrainedConfig, kind: TaskKind, label_names: list[str] | None) -> None:
    """Set the labels of a config, and the type of its loss."""
    if label_names is None:
        config.num_labels = 1 if kind.sequence_label else 2  # one output, or start and end of a span
    else:
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: number for number, name in enumerate(label_names)}
    if kind.several_labels:
        config.problem_type = "multi_label_classification"
    if kind.sequence_label:
        config.problem_type = "regression" if label_names is None else "single_label_classification"


@torch.no_grad()
def reorder_head(model: PreTrainedModel, labels: list[str], names: list[str]) -> list[str]:
    """Put the outputs of a checkpoint's head into the order of the task's labels, if they are the same ones.

    Returns:
        The labels of the checkpoint, in the order of the outputs now.
    """
    known = [label.lower() for label in labels]
    if len(known) != len(names) or {*known} != {name.lower() for name in names} or len({*known}) != len(known):
        return labels
    order = [known.index(name.lower()) for name in names]
    for name, layer in model.named_modules():
        if is_above_base(model, name) and isinstance(layer, nn.Linear) and layer.out_features == len(order):
            for weight in layer.parameters():
                weight.copy_(weight[order])
    return [labels[index] for index in order]


def _new_head_modules(model: PreTrainedModel, missing: set[str]) -> list[str]:
    """Return the modules of a masked language model head that the checkpoint lacks, without the output layer.

    The output layer shares the embeddings' weights, and its bias starts at zero.
    """
    output = model.get_output_embeddings()
    names = _modules_of({name for name in missing if not name.startswith(f"{model.base_model_prefix}.")})
    modules = ((name, model.get_submodule(name)) for name in names if name)
    return [
        name for name, each in modules if each is not output and isinstance(getattr(each, "weight", None), torch.Tensor)
    ]


def _modules_of(weights: set[str]) -> list[str]:
    """Return the names of the modules with these weights."""
    return sorted({name.rpartition(".")[0] for name in weights})
