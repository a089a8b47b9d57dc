"""Classifiers that transformers lacks, and the backbone without a head.

The classifiers are encoders with mean pooling over non-padding tokens, and heads on T5's encoder. Importing this module
registers them with transformers' Auto classes.
"""

from inspect import signature
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    T5ForTokenClassification,
    T5PreTrainedModel,
)
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput

import peftkit.models.bags  # noqa: F401  # registers its classifiers
from peftkit.compat.transformers import auto_model_class
from peftkit.config import UserError, refusal
from peftkit.config.families import FAMILIES, HEAD_SUBMODULES, LANGUAGE_MODEL_HEADS, MEAN_POOLING, base_type
from peftkit.models.attention_heads import pruned_class
from peftkit.models.pooling import masked_mean, sequence_loss


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


def without_pooler(model: type[PreTrainedModel]) -> dict[str, bool]:
    """Return the arguments of a backbone's constructor that omit its pooler, where it has one."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in signature(model.__init__).parameters else {}


def config_arguments(config: PretrainedConfig) -> dict[str, Any]:
    """Return the settings of a config, for the constructor of another config class."""
    return {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}


class MeanPooling:
    """Sequence classification: encoder, mean over non-padding tokens, dropout, linear layer (SBERT, section 3)."""

    def build(self, config: PretrainedConfig, encoder: nn.Module) -> None:
        self.num_labels = config.num_labels
        setattr(self, self.base_model_prefix, encoder)  # type: ignore[attr-defined]
        self.dropout = nn.Dropout(
            getattr(config, "seq_classif_dropout", None) or getattr(config, "hidden_dropout_prob", 0.1)
        )
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()  # type: ignore[attr-defined]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        past_key_values: Any = None,
        **inputs: Any,
    ) -> SequenceClassifierOutput:
        """Return logits (batch, labels), and their loss where there are labels.

        `past_key_values` is in the signature because PEFT reads it: without it, prefix tuning bypasses the pooling.
        """
        if past_key_values is not None:
            inputs["past_key_values"] = past_key_values
        encoder = getattr(self, self.base_model_prefix)  # type: ignore[attr-defined]
        outputs = encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        logits = self.classifier(self.dropout(masked_mean(outputs[0], attention_mask)))
        loss = sequence_loss(self.config, logits, labels)  # type: ignore[attr-defined]
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.get("hidden_states"), attentions=outputs.get("attentions")
        )


def _mean_pooling_classes(model_type: str) -> tuple[type[PretrainedConfig], type[PreTrainedModel]]:
    """Make the config and the classifier over an encoder: MeanPoolingBertConfig, MeanPoolingBertFor..."""
    config_class = CONFIG_MAPPING[model_type]
    encoder: Any = MODEL_MAPPING[config_class]
    pretrained: Any = encoder.__base__  # BertPreTrainedModel: initialization of weights, and prefix of their names
    name = f"MeanPooling{encoder.__name__.removesuffix('Model')}"
    own_config: Any = type(
        f"{name}Config", (config_class,), {"model_type": f"{MEAN_POOLING}{model_type}", "__module__": __name__}
    )

    def build(self: Any, config: PretrainedConfig) -> None:
        pretrained.__init__(self, config)
        self.build(config, encoder(config, **without_pooler(encoder)))

    members = {"config_class": own_config, "__init__": build, "__module__": __name__}
    return own_config, type(f"{name}ForSequenceClassification", (MeanPooling, pretrained), members)


CLASSIFIERS = {
    model_type: _mean_pooling_classes(model_type) for model_type, family in FAMILIES.items() if family.pools_mean
}


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


class T5EncoderConfig(T5Config):
    """T5 without its decoder."""

    model_type = "t5_encoder"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.is_encoder_decoder = False


class T5EncoderPreTrainedModel(T5PreTrainedModel):
    """T5's encoder below a head."""

    config_class = T5EncoderConfig
    base_model_prefix = "transformer"
    # both modules share one matrix; without this PEFT would train the new tokens' rows of only one of them
    _tied_weights_keys: ClassVar = {"transformer.encoder.embed_tokens.weight": "transformer.shared.weight"}


class T5EncoderForSequenceClassification(MeanPooling, T5EncoderPreTrainedModel):
    """The mean of the encoder's states (Ni et al. 2022, Sentence-T5, section 3), and a linear layer."""

    def __init__(self, config: T5EncoderConfig) -> None:
        super().__init__(config)
        self.build(config, T5EncoderModel(config))


class T5EncoderForTokenClassification(T5EncoderPreTrainedModel, T5ForTokenClassification):
    """A linear layer over each token's state."""


class T5EncoderForQuestionAnswering(T5EncoderPreTrainedModel):
    """A linear layer that scores each token as the start and as the end of the answer."""

    def __init__(self, config: T5EncoderConfig) -> None:
        super().__init__(config)
        self.transformer = T5EncoderModel(config)
        self.qa_outputs = nn.Linear(config.d_model, 2)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        **inputs: Any,
    ) -> QuestionAnsweringModelOutput:
        """Return start and end logits (batch, tokens); the loss is the mean of both cross-entropies."""
        outputs = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        start, end = self.qa_outputs(outputs[0]).unbind(dim=-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = nn.functional.cross_entropy(start.float(), start_positions)
            loss = (loss + nn.functional.cross_entropy(end.float(), end_positions)) / 2
        return QuestionAnsweringModelOutput(
            loss=loss, start_logits=start, end_logits=end, hidden_states=outputs.get("hidden_states")
        )


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
