"""Turn an encoder into a classifier that pools the mean of its real tokens, and T5 into its encoder with a head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PretrainedConfig,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5ForTokenClassification,
)
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput
from transformers.models.bert.modeling_bert import BertPreTrainedModel
from transformers.models.distilbert.modeling_distilbert import DistilBertPreTrainedModel
from transformers.models.roberta.modeling_roberta import RobertaPreTrainedModel
from transformers.models.t5.modeling_t5 import T5PreTrainedModel

from peftkit.models.pooling import mean_of_real_tokens


def register() -> None:
    """Teach transformers' Auto classes the models of this file. Calling it twice does nothing more."""
    classifiers: list[tuple[Any, type]] = [
        *MEAN_POOLING.values(),
        (T5EncoderConfig, T5EncoderForSequenceClassification),
    ]
    for config, model in classifiers:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForSequenceClassification.register(config, model, exist_ok=True)
    AutoModelForTokenClassification.register(T5EncoderConfig, T5EncoderForTokenClassification, exist_ok=True)
    AutoModelForQuestionAnswering.register(T5EncoderConfig, T5EncoderForQuestionAnswering, exist_ok=True)


def mean_pooling_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the config of the mean-pooling classifier over the same encoder.

    Raises:
        ValueError: the encoder is none of bert, roberta and distilbert.
    """
    if config.model_type == "t5_encoder":
        return config  # its only pooling: T5 has no [CLS]
    if config.model_type not in MEAN_POOLING:
        raise ValueError(
            f"mean pooling is there for {', '.join(MEAN_POOLING)}, not for {config.model_type}; try model.pooling=cls"
        )
    settings = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")}
    return MEAN_POOLING[config.model_type][0](**settings)


class MeanPooling:
    """The forward pass that the three classifiers share: encoder, mean over real tokens, dropout, linear."""

    def build(self, config: PretrainedConfig, encoder: nn.Module) -> None:
        self.num_labels = config.num_labels
        setattr(self, self.base_model_prefix, encoder)  # type: ignore[attr-defined]
        dropout = getattr(config, "seq_classif_dropout", None) or getattr(config, "hidden_dropout_prob", 0.1)
        self.dropout = nn.Dropout(dropout)
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
        """Return logits (batch, labels); the loss is cross-entropy, or squared error where there is one label.

        `past_key_values` is named because PEFT reads this signature: without it, prefix tuning goes around the pooling.
        """
        if past_key_values is not None:
            inputs["past_key_values"] = past_key_values
        encoder = getattr(self, self.base_model_prefix)  # type: ignore[attr-defined]
        outputs = encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        logits = self.classifier(self.dropout(mean_of_real_tokens(outputs[0], attention_mask)))
        loss = None
        if labels is not None and self.num_labels == 1:
            loss = nn.functional.mse_loss(logits.squeeze(-1).float(), labels.float())
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.get("hidden_states"), attentions=outputs.get("attentions")
        )


class MeanPoolingBertConfig(BertConfig):
    model_type = "mean_pooling_bert"


class MeanPoolingRobertaConfig(RobertaConfig):
    model_type = "mean_pooling_roberta"


class MeanPoolingDistilBertConfig(DistilBertConfig):
    model_type = "mean_pooling_distilbert"


class MeanPoolingBertForSequenceClassification(MeanPooling, BertPreTrainedModel):
    config_class = MeanPoolingBertConfig

    def __init__(self, config: MeanPoolingBertConfig) -> None:
        super().__init__(config)
        self.build(config, BertModel(config, add_pooling_layer=False))


class MeanPoolingRobertaForSequenceClassification(MeanPooling, RobertaPreTrainedModel):
    config_class = MeanPoolingRobertaConfig

    def __init__(self, config: MeanPoolingRobertaConfig) -> None:
        super().__init__(config)
        self.build(config, RobertaModel(config, add_pooling_layer=False))


class MeanPoolingDistilBertForSequenceClassification(MeanPooling, DistilBertPreTrainedModel):
    config_class = MeanPoolingDistilBertConfig

    def __init__(self, config: MeanPoolingDistilBertConfig) -> None:
        super().__init__(config)
        self.build(config, DistilBertModel(config))


class T5EncoderConfig(T5Config):
    """T5 without its decoder."""

    model_type = "t5_encoder"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.is_encoder_decoder = False


def t5_encoder_config(config: PretrainedConfig) -> T5EncoderConfig:
    """Return the config of a T5 checkpoint's encoder alone."""
    settings = config.to_dict()
    return T5EncoderConfig(**{k: v for k, v in settings.items() if k not in ("model_type", "architectures")})


# both read one matrix: PEFT, which would train rows of one alone, looks for it here
T5_TIED = {"transformer.encoder.embed_tokens.weight": "transformer.shared.weight"}


class T5EncoderForSequenceClassification(MeanPooling, T5PreTrainedModel):
    """The mean of the encoder's states (Ni et al. 2022, Sentence-T5, section 3), and a linear layer."""

    config_class = T5EncoderConfig
    base_model_prefix = "transformer"
    _tied_weights_keys = T5_TIED

    def __init__(self, config: T5EncoderConfig) -> None:
        super().__init__(config)
        self.build(config, T5EncoderModel(config))


class T5EncoderForTokenClassification(T5ForTokenClassification):
    config_class = T5EncoderConfig
    base_model_prefix = "transformer"
    _tied_weights_keys = T5_TIED


class T5EncoderForQuestionAnswering(T5PreTrainedModel):
    config_class = T5EncoderConfig
    base_model_prefix = "transformer"
    _tied_weights_keys = T5_TIED

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


MEAN_POOLING: dict[str, tuple[type[PretrainedConfig], type]] = {
    "bert": (MeanPoolingBertConfig, MeanPoolingBertForSequenceClassification),
    "roberta": (MeanPoolingRobertaConfig, MeanPoolingRobertaForSequenceClassification),
    "distilbert": (MeanPoolingDistilBertConfig, MeanPoolingDistilBertForSequenceClassification),
}

register()
