"""Pairs of texts that are encoded apart, a bi-encoder: the vectors of both meet below one linear layer (late fusion).

Importing this module registers the classifier with transformers' Auto classes.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from peftkit.config.families import PAIRS_APART
from peftkit.models.classifiers import sequence_loss
from peftkit.models.pooling import pool_states


class PairsApartBertConfig(BertConfig):
    """BERT's config; `pair_pooling` is how the vector of a text is pooled, cls or mean."""

    model_type = f"{PAIRS_APART}bert"


class PairsApartBertForSequenceClassification(BertPreTrainedModel):
    """A linear layer over u, v, |u - v| and u * v of the vectors of two texts (SBERT, Reimers and Gurevych 2019).

    The inputs are those of a pair, [CLS] a [SEP] b [SEP]; the encoder reads [CLS] a [SEP] and [CLS] b [SEP] by
    themselves. Section 3 of the paper concatenates u, v and |u - v|; u * v is of its section 6, as in InferSent.
    """

    config_class = PairsApartBertConfig

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.num_labels, self.pooling = config.num_labels, getattr(config, "pair_pooling", "mean")
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(4 * config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **inputs: Any,
    ) -> SequenceClassifierOutput:
        """Return logits (batch, labels), and their loss where there are labels.

        Raises:
            ValueError: the inputs have no token types, or those of a single text.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if token_type_ids is None or not (token_type_ids * mask).any(dim=1).all():
            raise ValueError("this model reads two texts: tokenizer(first, second), with token_type_ids")
        ids, mask = split_pairs(input_ids, mask, token_type_ids)
        states = self.bert(input_ids=ids, attention_mask=mask, **inputs)[0]
        first, second = pool_states(states, mask, self.pooling).chunk(2)
        vectors = torch.cat([first, second, (first - second).abs(), first * second], dim=-1)
        logits = self.classifier(self.dropout(vectors))
        return SequenceClassifierOutput(loss=sequence_loss(self.config, logits, labels), logits=logits)


def split_pairs(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask (2 * pairs, tokens) of the first texts, then of the second, each with [CLS] and [SEP]."""
    real = attention_mask.bool()
    second = real & token_type_ids.bool()
    second_with_cls = second.scatter(1, real.long().argmax(dim=1, keepdim=True), True)
    chosen = torch.cat([real & ~second, second_with_cls])
    counts = chosen.sum(dim=1, keepdim=True)
    width = int(counts.max())
    order = torch.argsort(~chosen, dim=1, stable=True)[:, :width]  # its tokens first, in their order
    ids = input_ids.repeat(2, 1).gather(1, order)
    return ids, (torch.arange(width, device=ids.device) < counts).to(attention_mask.dtype)


AutoConfig.register(PairsApartBertConfig.model_type, PairsApartBertConfig, exist_ok=True)
AutoModelForSequenceClassification.register(
    PairsApartBertConfig, PairsApartBertForSequenceClassification, exist_ok=True
)
