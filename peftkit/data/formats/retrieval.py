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

BEST = 1  # the rank that a query's right document is to have


@dataclass(frozen=True)
class RetrievalFormat(Format):
    """Retrieval: the columns of `task.text` are a query, the document that is right for it, and any that are wrong.

    A query is answered from all documents of its split, and the answer is the rank of the right one.
    """

    output_kind = "vectors"

    def encode(self, rows: Dataset) -> Encoded:
        """Tokenise each text by itself, at most `task.max_length` tokens; `positions` are a pair's texts."""
        columns = list(self.task.text)

        def tokens(batch: dict[str, list]) -> dict[str, Any]:
            found: dict[str, Any] = {"truncated": [False] * len(batch["id"])}
            for start, column in zip(self._starts(), columns, strict=True):
                out = self._tokens(batch[column])
                found["truncated"] = [a or b for a, b in zip(found["truncated"], out.pop("truncated"), strict=True)]
                found |= {start + name: values for name, values in out.items()}
            return found

        out, inputs = tokenize_column(rows, columns, tokens)
        ids = [out[f"{start}input_ids"] for start in self._starts()]
        lengths = [sum(map(len, row)) for row in zip(*ids, strict=True)]
        places = list(zip(*(rows[column] for column in columns), strict=True))
        labels = np.full(len(rows), BEST)
        known: np.ndarray = np.ones(len(rows), dtype=bool)
        return Encoded(inputs, lengths, sum(out["truncated"]), labels, known, None, places)

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return multi_text_collator(self.tokenizer, self._starts())

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        """Return the ranks; as scores, the cosine of the right document and that of the best wrong one."""
        found = rank_documents(encoded.positions, np.stack(scores))
        return Predictions(found.ranks, list(np.stack([found.right, found.wrong], axis=1)))

    def describe(self, prediction: Any) -> Any:
        return int(prediction)

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        documents = {text for _, *documents in encoded.positions for text in documents}
        return {"queries": len(encoded.positions), "documents": len(documents)}

    def _starts(self) -> list[str]:
        """Return what the names of each text's inputs start with."""
        return ["query_", "document_", *(f"wrong_{number}_" for number in range(1, len(self.task.text) - 1))]

    def _tokens(self, texts: list[str]) -> dict[str, Any]:
        """Tokenise; of a text without any token stands a pad, as no model reads nothing."""
        out = tokenize(self.tokenizer, [texts], self.task.max_length)
        for row in [row for row, ids in enumerate(out["input_ids"]) if not ids]:
            for name in out.keys() - {"truncated"}:
                out[name][row] = [{"input_ids": self.tokenizer.pad_token_id, "attention_mask": 1}.get(name, 0)]
        return out
