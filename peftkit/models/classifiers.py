"""Classifiers that transformers lacks: encoders with mean pooling over non-padding tokens, and heads on T5's encoder.

This module needs torch and transformers only: a checkpoint that peftkit exports contains a copy of it.
"""

from inspect import signature
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    T5ForTokenClassification,
    T5PreTrainedModel,
)
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput

MEAN_POOLING = "mean_pooling_"  # prefix of model types, so that no class of transformers reads these checkpoints


def masked_mean(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Average hidden states (batch, tokens, dim) over the tokens whose mask (batch, tokens) is 1 (SBERT, section 3).

    Prefix tuning lengthens the mask on its left but not the states, so the mask's last columns are used.
    """
    if attention_mask is None:
        return hidden.mean(dim=1)
    mask = attention_mask[:, -hidden.shape[1] :, None].to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def sequence_loss(config: PretrainedConfig, logits: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor | None:
    """Return the loss of logits (batch, labels), None without labels.

    Cross-entropy, squared error where there is one label, or binary cross-entropy of several labels (`problem_type` of
    the config).
    """
    if labels is None:
        return None
    if config.problem_type == "multi_label_classification":
        return nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float())
    if logits.shape[-1] == 1:
        return nn.functional.mse_loss(logits.squeeze(-1).float(), labels.float())
    return nn.functional.cross_entropy(logits.float(), labels)


def without_pooler(model: type[PreTrainedModel]) -> dict[str, bool]:
    """Return the arguments of a backbone's constructor that omit its pooler, where it has one."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in signature(model.__init__).parameters else {}


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


def mean_pooling_classes(model_type: str) -> tuple[type[PretrainedConfig], type[PreTrainedModel]]:
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
