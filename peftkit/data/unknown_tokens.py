"""Counts of the tokens of encoded examples that stand for text which the tokenizer does not know."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from peftkit.data.formats.base import Encoded, Format

MAX_SHARE = 0.05  # of unknown tokens
MAX_TEXTS, MOSTLY = 0.2, 0.5  # share of texts in which over half of the tokens are unknown
ANSWERS = ("prompt_ids", "chosen_ids", "rejected_ids")  # of preferences


@dataclass(frozen=True)
class UnknownTokens:
    """Numbers of tokens without the special ones, of those that are unknown, of texts, and of mostly unknown ones."""

    tokens: int
    unknown: int
    texts: int
    mostly_unknown: int

    @property
    def share(self) -> float:
        return self.unknown / max(self.tokens, 1)

    @property
    def is_high(self) -> bool:
        """Whether many tokens are unknown, or many texts consist of them."""
        return self.share > MAX_SHARE or self.mostly_unknown > MAX_TEXTS * self.texts


def count_unknown_tokens(task_format: Format, encoded: Encoded) -> UnknownTokens | None:
    """Count the unknown tokens of a split's inputs, and of the texts that an encoder-decoder generates.

    None where no text becomes an unknown token, as with bytes.
    """
    tokenizer = task_format.tokenizer
    unknown_id = tokenizer.unk_token_id
    names = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    if unknown_id is None or unknown_id in {getattr(tokenizer, name) for name in names}:  # GPT-2's is its end of text
        return None
    generates = task_format.architecture == "seq2seq" and task_format.output_kind == "likelihoods"
    parts = [_counts(ids, tokenizer) for ids in _batches(encoded.inputs, generates)]
    counts, missing = (np.concatenate([[0], *(part[index] for part in parts)]) for index in (0, 1))
    return UnknownTokens(
        int(counts.sum()), int(missing.sum()), int((counts > 0).sum()), int((missing > MOSTLY * counts).sum())
    )


def _batches(inputs: Any, generates: bool) -> Iterator[pa.ListArray]:
    """Yield the token ids of some texts at a time; a pair of texts is one."""
    table = getattr(inputs, "blocks", inputs)  # of language modeling, before noise
    for name in table.column_names:
        if name.endswith("input_ids") or name in ANSWERS or (generates and name == "labels"):
            for batch in table.select_columns([name]).with_format("arrow").iter(1000):
                yield batch[name].combine_chunks()


def _counts(ids: pa.ListArray, tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of tokens of each text (texts,), without special ones, and how many are unknown."""
    special = np.array([-100, *{*tokenizer.all_special_ids} - {tokenizer.unk_token_id}])
    texts, found = np.arange(len(ids)), ids
    while pa.types.is_list(found.type) or pa.types.is_large_list(found.type):  # choices are lists of lists
        texts = np.repeat(texts, found.value_lengths().to_numpy(zero_copy_only=False))
        found = found.flatten()
    tokens = found.to_numpy(zero_copy_only=False)
    known, unknown = ~np.isin(tokens, special), tokens == tokenizer.unk_token_id
    return np.bincount(texts[known], minlength=len(ids)), np.bincount(texts[unknown], minlength=len(ids))
