"""Turn the vectors of a batch's queries and documents into a loss that draws right pairs together and others apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from peftkit.config import UserError
from peftkit.models.pooling import Vectors


class ContrastiveLoss:
    """The ranking loss over a batch's documents, by sentence-transformers.

    Cross-entropy of `scale` times the cosines of a query with all documents of the batch, of which its own is the right
    one (Henderson et al. 2017, section 4.4; van den Oord et al. 2018). With `widths`, the sum of that of the vectors
    cut to each width, and of the whole ones (Matryoshka, Kusupati et al. 2022, section 3).

    No document is held against a query that is right for it in another row of the batch, nor is the same text twice.

    Raises:
        UserError: sentence-transformers is not installed.
    """

    def __init__(self, vectors: Vectors, scale: float, widths: Sequence[int] = ()) -> None:
        if find_spec("sentence_transformers") is None:
            raise UserError("contrastive training needs sentence-transformers; pip install 'peftkit[embed]'")
        from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

        self.vectors = vectors
        self.left_out = torch.zeros(0)  # (queries, documents) of the batch under way
        given: Any = _Given()
        self.loss: nn.Module = MultipleNegativesRankingLoss(given, scale, self._cosines)
        if widths:
            self.loss = MatryoshkaLoss(given, self.loss, sorted(widths))

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the loss, in fp32 whatever the model computes in."""
        columns = self.vectors(model, batch).unbind(dim=1)
        self.left_out = right_elsewhere(batch["texts"])
        with torch.autocast(columns[0].device.type, enabled=False):
            return self.loss([{VECTOR: column} for column in columns], None)  # type: ignore[no-any-return]

    def _cosines(self, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        """Return (queries, documents), minus infinity where a document is left out."""
        queries, documents = nn.functional.normalize(queries, dim=-1), nn.functional.normalize(documents, dim=-1)
        return (queries @ documents.T).masked_fill(self.left_out, -torch.inf)


VECTOR = "sentence_embedding"  # where the library looks for it


def right_elsewhere(texts: torch.Tensor) -> torch.Tensor:
    """Return (queries, documents): which documents of a batch are no wrong answers although another row has them.

    A text that equals the query's own document, or that is the document of the same query in another row.

    Args:
        texts: (rows, texts), numbers that tell the texts of a batch apart: query, document, wrong ones. The documents
            of the answer stand column by column.
    """
    rows = len(texts)
    documents = texts[:, 1:].T.reshape(-1)
    found = texts[:, 1, None] == documents[None]
    found[:, :rows] |= texts[:, 0, None] == texts[None, :, 0]
    found[torch.arange(rows), torch.arange(rows)] = False
    return found


class _Given(nn.Module):
    """Hand on vectors that are there already, where the library would run its own model."""

    def forward(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(features)

    def get_embedding_dimension(self) -> None:
        return None
