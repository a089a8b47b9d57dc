"""Retrieval: queries and documents encoded separately, scored by the rank of the right document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.data.collate import multi_text_collator
from peftkit.data.formats.base import Encoded, Format, Predictions, tokenize, tokenize_column
from peftkit.data.ranking import rank_documents

BEST = 1  # the ideal rank of the right document


@dataclass(frozen=True)
class RetrievalFormat(Format):
    """Retrieval: the columns of `task.text` are a query, its right document, and any wrong documents.

    The prediction is the rank of the right document among all documents of the split.
    """

    output_kind = "vectors"

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize each text separately, at most `task.max_length` tokens; `positions` are the texts of each pair."""
        columns = list(self.task.text)

        def tokens(batch: dict[str, list]) -> dict[str, Any]:
            columns_out: dict[str, Any] = {"truncated": [False] * len(batch["id"])}
            for start, column in zip(self._starts(), columns, strict=True):
                out = self._tokens(batch[column])
                columns_out["truncated"] = [
                    a or b for a, b in zip(columns_out["truncated"], out.pop("truncated"), strict=True)
                ]
                columns_out |= {start + name: values for name, values in out.items()}
            return columns_out

        out, inputs = tokenize_column(examples, columns, tokens)
        ids = [out[f"{start}input_ids"] for start in self._starts()]
        lengths = [sum(map(len, row)) for row in zip(*ids, strict=True)]
        texts = list(zip(*(examples[column] for column in columns), strict=True))
        known: np.ndarray = np.ones(len(examples), dtype=bool)
        labels = np.full(len(examples), BEST)
        return Encoded(inputs, lengths, sum(out["truncated"]), labels, known, None, texts)

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return multi_text_collator(self.tokenizer, self._starts())

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        """Return the ranks; the scores are the cosines of the right and the best wrong document."""
        ranked = rank_documents(encoded.positions, np.stack(scores))
        return Predictions(ranked.ranks, list(np.stack([ranked.right, ranked.wrong], axis=1)))

    def describe(self, prediction: Any) -> Any:
        return int(prediction)

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        documents = {text for _, *documents in encoded.positions for text in documents}
        return {"queries": len(encoded.positions), "documents": len(documents)}

    def _starts(self) -> list[str]:
        """Return the prefix of the input names of each text."""
        return ["query_", "document_", *(f"wrong_{number}_" for number in range(1, len(self.task.text) - 1))]

    def _tokens(self, texts: list[str]) -> dict[str, Any]:
        """Tokenize; a text without tokens becomes one padding token, since models need an input."""
        out = tokenize(self.tokenizer, [texts], self.task.max_length)
        for row in [row for row, ids in enumerate(out["input_ids"]) if not ids]:
            for name in out.keys() - {"truncated"}:
                out[name][row] = [{"input_ids": self.tokenizer.pad_token_id, "attention_mask": 1}.get(name, 0)]
        return out
