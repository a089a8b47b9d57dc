"""Sequence classifiers without layers of attention: a bag of words, and the mean of input embeddings.

Importing this module registers them with transformers' Auto classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from peftkit.models.classifiers import masked_mean, sequence_loss

WORD = r"\b\w\w+\b"  # scikit-learn's token_pattern
SPECIAL = ("[PAD]", "[CLS]", "[UNK]")  # the first rows of a vocabulary, which have no weight


def word_tokenizer(texts: Iterable[str], limit: int | None) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the words of texts, or of the `limit` most frequent ones; it leaves out all others.

    An input starts with [CLS], so that none is empty.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    size = len(SPECIAL) + limit if limit is not None else 2**31 - 1
    trainer = trainers.WordLevelTrainer(vocab_size=size, special_tokens=[*SPECIAL], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A", "[CLS] $A $B", [("[CLS]", 1)])
    found: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        model_input_names=["input_ids", "attention_mask"],
    )
    found.adjustments = []
    return found  # type: ignore[no-any-return]


class BagConfig(PretrainedConfig):
    """The size of a vocabulary, and of the features of a text."""

    def __init__(self, vocab_size: int = 2, hidden_size: int = 2, **settings: Any) -> None:
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        super().__init__(**settings)


class BagOfWordsConfig(BagConfig):
    model_type = "bag_of_words"


class MeanEmbeddingConfig(BagConfig):
    model_type = "mean_embedding"


class BagClassifier(PreTrainedModel, ABC):
    """A linear layer on features (batch, hidden_size) of texts."""

    def __init__(self, config: BagConfig) -> None:
        super().__init__(config)
        self.build(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @abstractmethod
    def build(self, config: BagConfig) -> None:
        """Add the layers of the features."""

    @abstractmethod
    def features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the features of token ids (batch, tokens)."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Return logits (batch, labels)."""
        logits = self.classifier(self.features(input_ids, attention_mask))
        return SequenceClassifierOutput(loss=sequence_loss(self.config, logits, labels), logits=logits)


class BagOfWordsForSequenceClassification(BagClassifier):
    """A linear layer on TF-IDF: counts of words times inverse document frequencies, of length one."""

    config_class = BagOfWordsConfig

    def build(self, config: BagConfig) -> None:
        self.document_weights = nn.Parameter(torch.ones(config.vocab_size))

    def get_input_embeddings(self) -> None:  # type: ignore[override]
        """Return None: it has none."""

    def features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        weights = self.document_weights
        counts = weights.new_zeros(len(input_ids), len(weights))
        counts = counts.scatter_add(1, input_ids, attention_mask.to(weights.dtype))
        counts[:, : len(SPECIAL)] = 0
        return nn.functional.normalize(counts * weights, dim=-1)


class MeanEmbeddingForSequenceClassification(BagClassifier):
    """A linear layer on the mean of the embeddings of a text's tokens."""

    config_class = MeanEmbeddingConfig

    def build(self, config: BagConfig) -> None:
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)

    def features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return masked_mean(self.embeddings(input_ids), attention_mask)


def bag_of_words(
    tokenizer: PreTrainedTokenizerBase, size: Callable[[PretrainedConfig], None]
) -> BagOfWordsForSequenceClassification:
    """Return a newly initialized bag of the words of a tokenizer; `size` sets the labels of its config."""
    words = len(tokenizer)
    config = BagOfWordsConfig(vocab_size=words, hidden_size=words, pad_token_id=tokenizer.pad_token_id)
    size(config)
    return BagOfWordsForSequenceClassification(config)


def mean_embedding(model: Any) -> MeanEmbeddingForSequenceClassification:
    """Return a classifier on the input embeddings of a loaded one, with its labels and a new head."""
    weight, config = model.get_input_embeddings().weight.detach(), model.config
    settings = {name: getattr(config, name) for name in ("id2label", "label2id", "problem_type", "pad_token_id")}
    rows, dim = weight.shape
    found = MeanEmbeddingForSequenceClassification(MeanEmbeddingConfig(vocab_size=rows, hidden_size=dim, **settings))
    found.embeddings.weight.data.copy_(weight)
    return found


for own_config, own_model in (
    (BagOfWordsConfig, BagOfWordsForSequenceClassification),
    (MeanEmbeddingConfig, MeanEmbeddingForSequenceClassification),
):
    AutoConfig.register(own_config.model_type, own_config, exist_ok=True)
    AutoModelForSequenceClassification.register(own_config, own_model, exist_ok=True)
