"""Retrieval: queries and documents encoded separately, scored by the rank of the right document."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset

from peftkit.data.formats.base import Encoded, Format, Predictions, tokenize

BEST = 1  # the ideal rank of the right document
AT_ONCE = 1024  # queries per block of the similarity matrix
TIE = 1e-6  # between two cosines, which differ that much with the padding of a batch
NONE = -1.0  # the cosine where there is no wrong document


class DocumentRanks(NamedTuple):
    """For each pair (pairs,): the rank of its document from 1, its cosine, and that of the best wrong document."""

    ranks: np.ndarray
    right: np.ndarray
    wrong: np.ndarray


@dataclass(frozen=True)
class RetrievalFormat(Format):
    """Retrieval: the columns of `task.text` are a query, its right document, and any wrong documents.

    The prediction is the rank of the right document among all documents of the split.
    """

    output_kind = "embeddings"

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize each text separately, at most `task.max_length` tokens; `positions` are the texts of each pair."""
        out = examples.map(self._tokens, batched=True, keep_in_memory=True)
        inputs = out.remove_columns(["id", "label", "truncated", *self.task.text])
        ids = [inputs[f"{start}input_ids"] for start in self._starts()]
        return Encoded(
            inputs,
            [sum(map(len, row)) for row in zip(*ids, strict=True)],
            sum(out["truncated"]),
            np.full(len(examples), BEST),
            np.full(len(examples), True),
            positions=list(zip(*(examples[column] for column in self.task.text), strict=True)),
        )

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Return a collator that pads each text separately, named by its prefix.

        `texts` (examples, texts) numbers the texts of a batch: equal numbers mean equal token ids.
        """
        pad, starts = super().collator(), self._starts()

        def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch: dict[str, Any] = {}
            for start in starts:
                inputs = [
                    {n.removeprefix(start): example[n] for n in example if n.startswith(start)} for example in examples
                ]
                batch |= {start + name: values for name, values in pad(inputs).items()}
            numbers: dict[tuple[int, ...], int] = {}
            ids = [[tuple(example[f"{start}input_ids"]) for start in starts] for example in examples]
            texts = torch.tensor([[numbers.setdefault(text, len(numbers)) for text in row] for row in ids])
            return batch | {"texts": texts}

        return collate

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        """Return the ranks; the scores are the cosines of the right and the best wrong document."""
        ranked = rank_documents(encoded.positions, np.stack(scores))
        return Predictions(ranked.ranks, list(np.stack([ranked.right, ranked.wrong], axis=1)))

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        documents = {text for _, *documents in encoded.positions for text in documents}
        return {"queries": len(encoded.positions), "documents": len(documents)}

    def _starts(self) -> list[str]:
        """Return the prefix of the input names of each text."""
        return ["query_", "document_", *(f"wrong_{number}_" for number in range(1, len(self.task.text) - 1))]

    def _tokens(self, batch: dict[str, list]) -> dict[str, Any]:
        """Tokenize; a text without tokens becomes one padding token, since models need an input."""
        columns: dict[str, Any] = {}
        for start, column in zip(self._starts(), self.task.text, strict=True):
            out = tokenize(self.tokenizer, [batch[column]], self.task.max_length)
            for row in [row for row, ids in enumerate(out["input_ids"]) if not ids]:
                for name in out.keys() - {"truncated"}:
                    out[name][row] = [{"input_ids": self.tokenizer.pad_token_id, "attention_mask": 1}.get(name, 0)]
            columns |= {start + name: values for name, values in out.items()}
        truncated = zip(*(columns.pop(f"{start}truncated") for start in self._starts()), strict=True)
        return columns | {"truncated": list(map(any, truncated))}


def rank_documents(texts: Sequence[Sequence[str]], vectors: np.ndarray) -> DocumentRanks:
    """Rank the documents of all pairs for each query; equal texts count once.

    A tie counts against the right document, so that a model with constant vectors scores zero. Right documents of other
    pairs with the same query are excluded from its ranking.

    Args:
        texts: for each pair its query, its right document, and any wrong documents.
        vectors: (pairs, texts, width), normalized to length one.
    """
    first_at: dict[str, tuple[int, int]] = {}  # where each document occurs first
    for row, (_, *documents) in enumerate(texts):
        for column, text in enumerate(documents, start=1):
            first_at.setdefault(text, (row, column))
    number_of = {text: number for number, text in enumerate(first_at)}
    pool = vectors[tuple(np.array(list(first_at.values())).T)].astype(np.float64)
    own = np.array([number_of[document] for _, document, *_ in texts])
    right_for: dict[str, list[int]] = {}
    for (query, *_), number in zip(texts, own, strict=True):
        right_for.setdefault(query, []).append(number)
    parts = []
    for first in range(0, len(texts), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        cosines = vectors[part, 0].astype(np.float64) @ pool.T
        right = cosines[np.arange(len(cosines)), own[part]]
        for row, (query, *_) in enumerate(texts[part]):
            cosines[row, right_for[query]] = -np.inf
        wrong = cosines.max(axis=1)
        ranks = 1 + (cosines >= right[:, None] - TIE).sum(axis=1)
        parts.append(DocumentRanks(ranks, right, np.where(np.isfinite(wrong), wrong, NONE)))
    return DocumentRanks(*map(np.concatenate, zip(*parts, strict=True)))
