"""Retrieval: queries and documents encoded separately, scored by the rank of the relevant document."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset

from peftkit.config.progress import advance
from peftkit.data.arrow_columns import list_lengths, unhashed
from peftkit.data.columns import text_columns
from peftkit.data.formats.base import Encoded, Format, Predictions, tokenize
from peftkit.data.tokenized import tokenize_examples

BEST_RANK = 1  # the ideal rank of the relevant document
BLOCK_QUERIES = 1024  # per block of the similarity matrix
TIE = 1e-6  # between two cosines, which vary that much with the padding of a batch
NO_NEGATIVE = -1.0  # the cosine where there is no negative


class DocumentRanks(NamedTuple):
    """For each pair (pairs,): the rank of its document from 1, its cosine, and that of the highest-scoring negative."""

    ranks: np.ndarray
    relevant: np.ndarray
    negative: np.ndarray


@dataclass(frozen=True)
class RetrievalFormat(Format):
    """Retrieval: the columns of `task.text` are a query, its relevant document, and any hard negatives.

    The prediction is the rank of the relevant document among all documents of the split.
    """

    output_kind = "embeddings"

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize each text separately, at most `task.max_length` tokens; `positions` are the texts of each pair."""
        tokens = tokenize_examples(self, examples, self._tokens)
        lengths = [list_lengths(tokens[f"{prefix}input_ids"]) for prefix in self._prefixes()]
        return Encoded(
            unhashed(tokens.drop_columns(["truncated"])),
            np.sum(lengths, axis=0).tolist(),
            sum(tokens["truncated"].to_pylist()),
            np.full(len(examples), BEST_RANK),
            np.full(len(examples), True),
            positions=list(zip(*(examples[column][:] for column in text_columns(self.task)), strict=True)),
        )

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Return a collator that pads each text separately, named by its prefix.

        `texts` (examples, texts) numbers the texts of a batch: equal numbers mean equal token ids.
        """
        pad, prefixes = super().collator(), self._prefixes()

        def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch: dict[str, Any] = {}
            for prefix in prefixes:
                inputs = [
                    {n.removeprefix(prefix): example[n] for n in example if n.startswith(prefix)}
                    for example in examples
                ]
                batch |= {prefix + name: values for name, values in pad(inputs).items()}
            numbers: dict[tuple[int, ...], int] = {}
            ids = [[tuple(example[f"{prefix}input_ids"]) for prefix in prefixes] for example in examples]
            texts = torch.tensor([[numbers.setdefault(text, len(numbers)) for text in row] for row in ids])
            return batch | {"texts": texts}

        return collate

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        """Return the ranks; the scores are the cosines of the relevant document and the highest-scoring negative."""
        ranked = rank_documents(encoded.positions, np.stack(scores))
        return Predictions(ranked.ranks, list(np.stack([ranked.relevant, ranked.negative], axis=1)))

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        documents = {text for _, *documents in encoded.positions for text in documents}
        return {"queries": len(encoded.positions), "documents": len(documents)}

    def _prefixes(self) -> list[str]:
        """Return the prefix of the input names of each text."""
        return ["query_", "document_", *(f"negative_{number}_" for number in range(1, len(self.task.text) - 1))]

    def _tokens(self, batch: dict[str, list]) -> dict[str, Any]:
        """Tokenize; a text without tokens becomes one padding token, since models need an input."""
        advance(len(batch[text_columns(self.task)[0]]))
        columns: dict[str, Any] = {}
        for prefix, column in zip(self._prefixes(), text_columns(self.task), strict=True):
            out = tokenize(self.tokenizer, [batch[column]], self.task.max_length)
            for row in [row for row, ids in enumerate(out["input_ids"]) if not ids]:
                for name in out.keys() - {"truncated"}:
                    out[name][row] = [{"input_ids": self.tokenizer.pad_token_id, "attention_mask": 1}.get(name, 0)]
            columns |= {prefix + name: values for name, values in out.items()}
        truncated = zip(*(columns.pop(f"{prefix}truncated") for prefix in self._prefixes()), strict=True)
        return columns | {"truncated": list(map(any, truncated))}


def rank_documents(texts: Sequence[Sequence[str]], embeddings: np.ndarray) -> DocumentRanks:
    """Rank the documents of all pairs for each query; equal texts count once.

    A tie counts against the relevant document, so that a model with constant embeddings scores zero. Relevant documents
    of other pairs with the same query are excluded from its ranking.

    Args:
        texts: for each pair its query, its relevant document, and any hard negatives.
        embeddings: (pairs, texts, dim), normalized to length one.
    """
    first_at: dict[str, tuple[int, int]] = {}  # the first position of each document
    for row, (_, *documents) in enumerate(texts):
        for column, text in enumerate(documents, start=1):
            first_at.setdefault(text, (row, column))
    number_of = {text: number for number, text in enumerate(first_at)}
    pool = embeddings[tuple(np.array(list(first_at.values())).T)].astype(np.float64)
    own = np.array([number_of[document] for _, document, *_ in texts])
    relevant_to: dict[str, list[int]] = {}
    for (query, *_), number in zip(texts, own, strict=True):
        relevant_to.setdefault(query, []).append(number)
    parts = []
    for first in range(0, len(texts), BLOCK_QUERIES):
        part = slice(first, first + BLOCK_QUERIES)
        cosines = embeddings[part, 0].astype(np.float64) @ pool.T
        relevant = cosines[np.arange(len(cosines)), own[part]]
        for row, (query, *_) in enumerate(texts[part]):
            cosines[row, relevant_to[query]] = -np.inf
        negative = cosines.max(axis=1)
        ranks = 1 + (cosines >= relevant[:, None] - TIE).sum(axis=1)
        parts.append(DocumentRanks(ranks, relevant, np.where(np.isfinite(negative), negative, NO_NEGATIVE)))
    return DocumentRanks(*map(np.concatenate, zip(*parts, strict=True)))
