"""The backbone without a head, and the weights above it.

Importing this module registers the classifiers that transformers lacks with its Auto classes.
"""

from typing import Any

from torch import nn
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

import peftkit.models.bags  # noqa: F401  # registers its classifiers
from peftkit.compat.transformers import auto_model_class
from peftkit.config import UserError, refusal
from peftkit.config.families import FAMILIES, HEAD_SUBMODULES, LANGUAGE_MODEL_HEADS, base_type
from peftkit.models.attention_heads import pruned_class
from peftkit.models.classifiers import (
    T5EncoderConfig,
    T5EncoderForQuestionAnswering,
    T5EncoderForSequenceClassification,
    T5EncoderForTokenClassification,
    mean_pooling_classes,
    without_pooler,
)
from peftkit.models.pairs import PairsApartBertConfig


class Backbone:
    """Loads the backbone; used like an Auto class of transformers."""

    @staticmethod
    def from_pretrained(name: str, config: PretrainedConfig | None = None, **arguments: Any) -> PreTrainedModel:
        """Load as `AutoModel` does, without a pooler, whose output is not used and which no loss would train."""
        config = AutoConfig.from_pretrained(name) if config is None else config
        if (model_type := base_type(config.model_type)) != config.model_type:  # of one of the classifiers below
            config = AutoConfig.for_model(model_type, **config_arguments(config))
        if config.is_encoder_decoder or type(config)().is_encoder_decoder:  # an encoder that was saved by itself, too
            if type(config) not in MODEL_FOR_TEXT_ENCODING_MAPPING:
                wrong = f"transformers has no encoder of {model_type} by itself"
                raise UserError(refusal(wrong, "model=bert ~model.checkpoint", "model=t5"))
            encoder = pruned_class(MODEL_FOR_TEXT_ENCODING_MAPPING[type(config)], config)
            return encoder.from_pretrained(name, config=config, **arguments)  # type: ignore[no-any-return]
        arguments |= without_pooler(MODEL_MAPPING[type(config)])
        backbone = loading_class(AutoModel, config)
        return backbone.from_pretrained(name, config=config, **arguments)  # type: ignore[no-any-return]


def loading_class(auto: Any, config: PretrainedConfig) -> Any:
    """Return what loads a checkpoint: an Auto class, or the class of its model where heads were pruned."""
    is_whole = auto is Backbone or not getattr(config, "pruned_heads", None)
    return auto if is_whole else pruned_class(auto_model_class(auto, config), config)


def config_arguments(config: PretrainedConfig) -> dict[str, Any]:
    """Return the settings of a config, for the constructor of another config class."""
    return {
        name: value
        for name, value in config.to_dict().items()
        if name not in ("model_type", "architectures", "auto_map")
    }


CLASSIFIERS = {
    model_type: mean_pooling_classes(model_type) for model_type, family in FAMILIES.items() if family.pools_mean
}


def sequence_config(config: PretrainedConfig, pooling: str | None, pairs: str | None) -> PretrainedConfig:
    """Return the config of a model with a sequence head: that of the checkpoint, or of one of peftkit's classifiers.

    Raises:
        UserError: pairs are encoded apart, and the checkpoint is not a BERT.
    """
    if pairs is None:
        return mean_pooling_config(config) if pooling == "mean" else config
    if config.model_type != "bert":
        wrong = f"model.pairs={pairs} needs BERT's token types, which mark the second text, and {config.model_type}"
        raise UserError(refusal(f"{wrong} is none", "model=minilm ~model.checkpoint", "~model.pairs"))
    return PairsApartBertConfig(**{**config_arguments(config), "pair_pooling": pooling})


def mean_pooling_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the config of the mean-pooling classifier over the same encoder.

    Raises:
        ValueError: there is no such classifier for this family.
    """
    if config.model_type == T5EncoderConfig.model_type:
        return config  # its only pooling: T5 has no [CLS]
    if config.model_type not in CLASSIFIERS:
        raise ValueError(
            f"mean pooling supports {', '.join(CLASSIFIERS)}, not {config.model_type}; set model.pooling=cls"
        )
    return CLASSIFIERS[config.model_type][0](**config_arguments(config))


def is_above_base(model: PreTrainedModel, name: str) -> bool:
    """Return whether a weight is above the base, and not in a language model's output layer or a hidden head layer."""
    parts = name.split(".")
    is_above = model.base_model is not model and parts[0] != model.base_model_prefix
    return is_above and (HEAD_SUBMODULES | LANGUAGE_MODEL_HEADS).isdisjoint(parts)


def head_weights(model: PreTrainedModel) -> frozenset[str]:
    """Return the names of the weights of a loaded base that are its task's: above it, or newly initialized."""
    new, below = getattr(model, "new_head", ()), getattr(model, "new_base_weights", ())
    return frozenset(
        name
        for name, _ in model.named_parameters(remove_duplicate=False)
        if is_above_base(model, name) or name in below or name.rpartition(".")[0] in new
    )


def shared_modules(language_model: PreTrainedModel, tuned: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    """Return the corresponding modules of a language model and of a model tuned from the same checkpoint.

    The whole models where both are of one class; the backbones under different heads; T5's encoders where only the
    encoder was tuned.
    """
    if type(tuned) is type(language_model):
        return language_model, tuned
    if language_model.config.is_encoder_decoder:
        return language_model.encoder, tuned.base_model.encoder  # type: ignore[return-value]
    return language_model.base_model, tuned.base_model


def with_tuned_module(language_model: PreTrainedModel, tuned: PreTrainedModel) -> PreTrainedModel:
    """Return the language model with the tuned model's layers, which both share from now on.

    A head that is tied to the embeddings stays tied.
    """
    base, tuned_base = shared_modules(language_model, tuned)
    if base is language_model:
        return tuned
    output, inputs = language_model.get_output_embeddings(), language_model.get_input_embeddings()
    is_tied = output is not None and output.weight is inputs.weight
    setattr(language_model, next(name for name, each in language_model.named_children() if each is base), tuned_base)
    if is_tied:
        output.weight = language_model.get_input_embeddings().weight  # type: ignore[union-attr]
    return language_model


_CLASSIFIERS: list[tuple[Any, type]] = [*CLASSIFIERS.values(), (T5EncoderConfig, T5EncoderForSequenceClassification)]
for own_config, own_model in _CLASSIFIERS:
    AutoConfig.register(own_config.model_type, own_config, exist_ok=True)
    AutoModelForSequenceClassification.register(own_config, own_model, exist_ok=True)
AutoModelForTokenClassification.register(T5EncoderConfig, T5EncoderForTokenClassification, exist_ok=True)
AutoModelForQuestionAnswering.register(T5EncoderConfig, T5EncoderForQuestionAnswering, exist_ok=True)
