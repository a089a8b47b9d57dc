"""Losses that replace the model's own: contrastive, weighted, and distillation from the scores of a teacher."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    kl_div,
    log_softmax,
    mse_loss,
    normalize,
)

from peftkit.config import UserError
from peftkit.models.pooling import TextEmbedder

TEACHER_COLUMN = "teacher"  # of the teacher's scores (examples, labels)
SMALLEST = 1e-12  # 1 - p of the focal loss, whose power has no gradient at 0


class ContrastiveLoss:
    """The contrastive loss of embedding models, MultipleNegativesRankingLoss of sentence-transformers.

    Cross-entropy of `scale` times the cosines of a query with all documents of the batch, where its own document is the
    target (Henderson et al. 2017, section 4.4; van den Oord et al. 2018). With `dims`, the sum of that loss over the
    embeddings truncated to each of them (Matryoshka, Kusupati et al. 2022, section 3).

    False negatives are masked: relevant documents of the same query in other examples, and equal texts.

    Raises:
        UserError: sentence-transformers is not installed.
    """

    def __init__(self, embedder: TextEmbedder, scale: float, dims: Sequence[int] = ()) -> None:
        if find_spec("sentence_transformers") is None:
            raise UserError("contrastive training needs sentence-transformers; pip install 'peftkit[embed]'")
        from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

        self.embedder = embedder
        self.masked = torch.zeros(0)  # (queries, documents) of the current batch
        model: Any = _PrecomputedEmbeddings()
        self.loss: nn.Module = MultipleNegativesRankingLoss(model, scale, self._cosines)
        if dims:
            self.loss = MatryoshkaLoss(model, self.loss, sorted(dims))

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the loss, in fp32 whatever the model's precision."""
        columns = self.embedder(model, batch).unbind(dim=1)
        self.masked = false_negatives(batch["texts"])
        with torch.autocast(columns[0].device.type, enabled=False):
            return self.loss([{"sentence_embedding": column} for column in columns], None)  # type: ignore[no-any-return]

    def _cosines(self, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        """Return (queries, documents), minus infinity for false negatives."""
        return (normalize(queries, dim=-1) @ normalize(documents, dim=-1).T).masked_fill(self.masked, -torch.inf)


def false_negatives(texts: torch.Tensor) -> torch.Tensor:
    """Return (queries, documents): which documents of other examples are relevant to a query.

    Those are texts equal to the query's own document, and documents of the same query in another example.

    Args:
        texts: (examples, texts), equal numbers for equal texts: query, document, hard negatives. The documents of the
            result are ordered column by column.
    """
    same = texts[:, 1, None] == texts[:, 1:].T.reshape(1, -1)
    same[:, : len(texts)] |= texts[:, 0, None] == texts[None, :, 0]
    return same.fill_diagonal_(False)


class _PrecomputedEmbeddings(nn.Module):
    """The model of a sentence-transformers loss; returns its input embeddings."""

    def forward(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(features)

    def get_embedding_dimension(self) -> None:
        return None


class CountedLoss(ABC):
    """A loss that is made of means, each over terms of its own, by whose counts the trainer weights a batch.

    So a step has the gradient of one large batch, whatever batches and processes its examples are in.
    """

    @abstractmethod
    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the mean, or the means (means,), of a batch in fp32."""

    @abstractmethod
    def terms(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return what each sum is divided by to give its mean, such as the number of examples."""

    def combined(self, means: torch.Tensor) -> torch.Tensor:
        """Return the loss; `means` are those of the batch, weighted by its share of the terms of a step."""
        return means.sum()


@dataclass(frozen=True)
class WeightedLoss(CountedLoss):
    """A loss over the logits of a head, divided by the sum of weights.

    The trainer weights each batch by its share of the `total` of an optimizer step, so that the gradient is that of one
    large batch: the mean of the batches' own means would, with batches of one example, have no weights at all.

    Args:
        weights: (labels,), None for equal ones.
        gamma: of the focal loss (Lin et al. 2017, section 3.2): examples are weighted by (1 - p) ** gamma.
    """

    weights: torch.Tensor | None = None
    gamma: float = 0.0

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the weighted mean loss of a batch, in fp32."""
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits.float()
        labels = batch["labels"]
        return self.summed(logits, labels) / self.total(labels)

    def terms(self, batch: Mapping[str, Any]) -> torch.Tensor:
        return self.total(batch["labels"])

    @abstractmethod
    def summed(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the sum of the losses of examples."""

    @abstractmethod
    def total(self, labels: torch.Tensor) -> torch.Tensor:
        """Return what the sum is divided by to give a mean."""


@dataclass(frozen=True)
class WeightedCrossEntropy(WeightedLoss):
    """Cross-entropy as torch's CrossEntropyLoss(weight, label_smoothing) defines it, or its focal form.

    The mean is over the weights of the examples' classes, (examples,).
    """

    label_smoothing: float = 0.0

    def summed(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        weights = None if self.weights is None else self.weights.to(logits.device)
        if not self.gamma:
            return cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=self.label_smoothing)
        losses = cross_entropy(logits, labels, reduction="none")
        focused = _focus(losses, self.gamma) * losses
        return (focused if weights is None else weights[labels] * focused).sum()

    def total(self, labels: torch.Tensor) -> torch.Tensor:
        if self.weights is None:
            return torch.tensor(float(labels.numel()), device=labels.device)
        return self.weights.to(labels.device)[labels].sum()


@dataclass(frozen=True)
class WeightedBinaryCrossEntropy(WeightedLoss):
    """Binary cross-entropy of each label, as torch's BCEWithLogitsLoss(pos_weight) defines it, or its focal form.

    The weight of a label multiplies the loss of the examples that have it. The mean is over examples and labels.
    """

    def summed(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        weights = None if self.weights is None else self.weights.to(logits.device)
        losses = binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="none")
        if self.gamma:
            losses = losses * _focus(binary_cross_entropy_with_logits(logits, labels, reduction="none"), self.gamma)
        return losses.sum()

    def total(self, labels: torch.Tensor) -> torch.Tensor:
        return torch.tensor(float(labels.numel()), device=labels.device)


def _focus(losses: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return (1 - p) ** gamma of losses -log(p)."""
    return (-torch.expm1(-losses)).clamp(min=SMALLEST) ** gamma


@dataclass(frozen=True)
class Distillation:
    """The loss on labels and on a teacher's scores of the same examples (Hinton et al. 2015, section 2).

    For classes: the cross-entropy of the labels, and the KL divergence of both softmaxes at a temperature, times its
    square, which keeps the scale of its gradients. For a number: the squared differences from label and teacher.
    `alpha` (0 to 1) is the teacher's share.
    """

    temperature: float
    alpha: float

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name not in ("labels", TEACHER_COLUMN)}
        logits = model(**inputs).logits.float()
        labels, teacher = batch["labels"], batch[TEACHER_COLUMN].float()
        if logits.shape[-1] == 1:
            hard, soft = mse_loss(logits[:, 0], labels.float()), mse_loss(logits, teacher)
        else:
            hard = cross_entropy(logits, labels)
            student, target = (log_softmax(each / self.temperature, dim=-1) for each in (logits, teacher))
            soft = self.temperature**2 * kl_div(student, target, reduction="batchmean", log_target=True)
        return (1 - self.alpha) * hard + self.alpha * soft


def loss_terms(batch: Mapping[str, Any], shifts_labels: bool = False) -> torch.Tensor:
    """Return the number of terms whose mean is the loss of a batch: tokens with a label, otherwise examples.

    Args:
        shifts_labels: the first token of an example is never predicted.
    """
    labels = batch.get("labels")
    if labels is None or labels.is_floating_point():
        return torch.tensor(len(next(each for each in batch.values() if isinstance(each, torch.Tensor))))
    return (labels[:, 1:] if shifts_labels and labels.dim() == 2 else labels).ne(-100).sum()
