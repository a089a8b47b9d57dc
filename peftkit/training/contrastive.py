"""The contrastive loss of embedding models: right documents near their query, the batch's other documents far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from peftkit.config import UserError
from peftkit.models.pooling import Vectors

EMBEDDING_KEY = "sentence_embedding"  # where sentence-transformers' losses look for it


class ContrastiveLoss:
    """MultipleNegativesRankingLoss of sentence-transformers.

    Cross-entropy of `scale` times the cosines of a query with all documents of the batch, of which its own is the right
    one (Henderson et al. 2017, section 4.4; van den Oord et al. 2018). With `dims`, the sum of that loss over the
    vectors truncated to each of them (Matryoshka, Kusupati et al. 2022, section 3).

    False negatives are masked: a document that is right for a query in another example, or the same text twice.

    Raises:
        UserError: sentence-transformers is not installed.
    """

    def __init__(self, vectors: Vectors, scale: float, dims: Sequence[int] = ()) -> None:
        if find_spec("sentence_transformers") is None:
            raise UserError("contrastive training needs sentence-transformers; pip install 'peftkit[embed]'")
        from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

        self.vectors = vectors
        self.masked = torch.zeros(0)  # (queries, documents) of the current batch
        model: Any = _PrecomputedEmbeddings()
        self.loss: nn.Module = MultipleNegativesRankingLoss(model, scale, self._cosines)
        if dims:
            self.loss = MatryoshkaLoss(model, self.loss, sorted(dims))

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the loss, in fp32 whatever the model's precision."""
        columns = self.vectors(model, batch).unbind(dim=1)
        self.masked = false_negatives(batch["texts"])
        with torch.autocast(columns[0].device.type, enabled=False):
            return self.loss([{EMBEDDING_KEY: column} for column in columns], None)  # type: ignore[no-any-return]

    def _cosines(self, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        """Return (queries, documents), minus infinity of a false negative."""
        queries, documents = nn.functional.normalize(queries, dim=-1), nn.functional.normalize(documents, dim=-1)
        return (queries @ documents.T).masked_fill(self.masked, -torch.inf)


def false_negatives(texts: torch.Tensor) -> torch.Tensor:
    """Return (queries, documents): which documents of other examples are no wrong answers to a query.

    Those are texts equal to the query's own document, and documents of the same query in another example.

    Args:
        texts: (examples, texts), equal numbers for equal texts: query, document, hard negatives. The documents of the
            result are ordered column by column.
    """
    count = len(texts)
    documents = texts[:, 1:].T.reshape(-1)
    same = texts[:, 1, None] == documents[None]
    same[:, :count] |= texts[:, 0, None] == texts[None, :, 0]
    same[torch.arange(count), torch.arange(count)] = False
    return same


class _PrecomputedEmbeddings(nn.Module):
    """The model of a sentence-transformers loss; returns the embeddings that it gets."""

    def forward(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(features)

    def get_embedding_dimension(self) -> None:
        return None
