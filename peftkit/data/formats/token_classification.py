"""Turn words into token ids whose first sub-words carry the words' tags, and their logits back into tags."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from peftkit.config import TaskConfig, UserError
from peftkit.data.collate import token_label_collator
from peftkit.data.formats.base import Encoded, Predictions, label_mask

SPAN = re.compile(r"O|[BIESLU]-.+")
UNTAGGED = -1  # of a word that was cut, or of which the tokenizer leaves nothing; it counts as wrong


@dataclass(frozen=True)
class TokenClassificationFormat:
    """Token classification: the first sub-word of each word is labelled (Devlin et al. 2019, section 5.3)."""

    task: TaskConfig
    names: list[str]
    tokenizer: PreTrainedTokenizerBase
    output_kind = "logits"
    verbalizer_ids = None
    max_new_tokens = None

    def __post_init__(self) -> None:
        if "entity_f1" in self.task.metrics and not all(SPAN.fullmatch(name) for name in self.names):
            wrong = next(name for name in self.names if not SPAN.fullmatch(name))
            raise UserError(
                f"entity_f1 is for spans, tags as B-PER, I-PER and O, and {wrong} is none; "
                "say task.metrics=[token_accuracy]"
            )

    def encode(self, rows: Dataset) -> Encoded:
        """Tokenise word by word, at most `task.max_length` tokens; `positions` are the words' first tokens."""
        column, glues = self.task.text[0], _glues_words(self.tokenizer)
        limit = min(self.task.max_length, self.tokenizer.model_max_length)
        words = [[f" {word}" if glues and number else word for number, word in enumerate(row)] for row in rows[column]]
        out = self.tokenizer(words, is_split_into_words=True, truncation=True, max_length=limit)
        places, targets, truncated = [], [], 0
        for row, (sentence, tags) in enumerate(zip(words, rows["label"], strict=True)):
            owners = out.word_ids(row)
            first = {word: place for place, word in reversed(list(enumerate(owners))) if word is not None}
            places.append([first.get(word, UNTAGGED) for word in range(len(sentence))])
            truncated += max(first, default=-1) < len(sentence) - 1 and len(owners) >= limit
            target = [-100] * len(owners)
            for word, place in first.items():
                target[place] = -100 if tags is None else tags[word]
            targets.append(target)
        inputs = Dataset.from_dict({**out, "labels": targets})
        return Encoded(
            inputs, [len(row) for row in targets], truncated, list(rows["label"]), label_mask(rows), None, places
        )

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return token_label_collator(self.tokenizer)

    def unpad(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return the scores (words, tags) of each sentence; NaN for a word without a token."""
        cut = []
        for row, places in zip(scores, encoded.positions, strict=True):
            found = row[np.maximum(np.asarray(places, dtype=int), 0)].astype(float)
            found[np.asarray(places) == UNTAGGED] = np.nan
            cut.append(found)
        return cut

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        return Predictions([_tags_of(row) for row in scores], scores)

    def describe(self, prediction: Any) -> Any:
        return [None if tag == UNTAGGED else self.names[tag] for tag in prediction]

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        found = Counter(tag for tags in encoded.labels if tags is not None for tag in tags)
        hidden = int((~encoded.has_label).sum())
        return {name: found[number] for number, name in enumerate(self.names)} | ({"hidden": hidden} if hidden else {})


def _tags_of(scores: np.ndarray) -> list[int]:
    best = np.nan_to_num(scores, nan=-np.inf).argmax(axis=-1)
    return np.where(np.isnan(scores).any(axis=-1), UNTAGGED, best).tolist()  # type: ignore[no-any-return]


def _glues_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether words given one by one lack the space before them, as with byte-level tokenizers."""
    apart = tokenizer(["a", "film"], is_split_into_words=True)["input_ids"]
    return bool(apart != tokenizer("a film")["input_ids"])
