"""Token classification: the first sub-word of each word carries the word's tag."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, List, Value
from transformers import PreTrainedTokenizerBase

from peftkit.config import UserError
from peftkit.data.collate import token_label_collator
from peftkit.data.formats.base import Encoded, Format, Predictions, hidden_count, label_mask
from peftkit.data.labels import ClassLabelReader, class_feature, label_text
from peftkit.data.tables import parse_list

SPAN = re.compile(r"O|[BIESLU]-.+")
UNTAGGED = -1  # for a word that was truncated or that the tokenizer drops; it counts as wrong


class TagReader(ClassLabelReader):
    """Reads one tag for each word; words and tags are lists, or texts with spaces between."""

    @property
    def label_feature(self) -> Any:
        return List(Value("int64"))

    def class_names(self, label: Any) -> Iterable[str]:
        return list(label)

    def parse_text(self, cell: Any) -> Any:
        """Return the words of a cell."""
        return [str(word) for word in parse_list(cell)]

    def raw_labels(self, table: Dataset) -> list[Any]:
        has_hidden = class_feature(self.task, table) is not None
        return [_tags(cell, has_hidden) for cell in self._label_column(table)]

    def label_parser(self, table: Dataset, names: list[str] | None, split: str) -> Callable[[Any, Sequence[Any]], Any]:
        class_id = self.class_id(table, names or [], split)

        def parse(tags: list[str], texts: Sequence[Any]) -> list[int]:
            if len(tags) != len(texts[0]):
                raise UserError(
                    f"an example of {split} has {len(texts[0])} words and {len(tags)} tags: "
                    f"{' '.join(texts[0])[:60]}; write one tag for each word"
                )
            return [class_id(tag) for tag in tags]

        return parse


@dataclass(frozen=True)
class TokenClassificationFormat(Format):
    """Token classification: the first sub-word of each word is labelled (Devlin et al. 2019, section 5.3)."""

    reader = TagReader

    def __post_init__(self) -> None:
        wrong = [name for name in self.names or [] if not SPAN.fullmatch(name)]
        if "entity_f1" in self.task.metrics and wrong:
            raise UserError(
                f"task.metrics=[entity_f1] needs span tags as B-PER, I-PER and O, which {wrong[0]} is not; "
                "set task.metrics=[token_accuracy]"
            )

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize word by word, at most `task.max_length` tokens; `positions` are the words' first tokens."""
        column, needs_spaces = self.task.text[0], _needs_spaces(self.tokenizer)
        limit = min(self.task.max_length, self.tokenizer.model_max_length)
        words = [
            [f" {word}" if needs_spaces and n else word for n, word in enumerate(each)] for each in examples[column]
        ]
        out = self.tokenizer(words, is_split_into_words=True, truncation=True, max_length=limit)
        positions, targets, truncated = [], [], 0
        for number, (sentence, tags) in enumerate(zip(words, examples["label"], strict=True)):
            word_of = out.word_ids(number)
            first = {word: token for token, word in reversed(list(enumerate(word_of))) if word is not None}
            positions.append([first.get(word, UNTAGGED) for word in range(len(sentence))])
            truncated += max(first, default=-1) < len(sentence) - 1 and len(word_of) >= limit
            target = [-100] * len(word_of)
            for word, token in first.items():
                target[token] = -100 if tags is None else tags[word]
            targets.append(target)
        inputs, lengths = Dataset.from_dict({**out, "labels": targets}), [len(target) for target in targets]
        labels = list(examples["label"])
        return Encoded(inputs, lengths, truncated, labels, label_mask(examples), positions=positions)

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return token_label_collator(self.tokenizer)

    def unpad(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return the scores (words, tags) of each sentence; NaN for a word without a token."""
        unpadded = []
        for row, positions in zip(scores, map(np.asarray, encoded.positions), strict=True):
            of_words = row[np.maximum(positions.astype(int), 0)].astype(float)
            of_words[positions == UNTAGGED] = np.nan
            unpadded.append(of_words)
        return unpadded

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        return Predictions([_best_tags(each) for each in scores], scores)

    def describe(self, prediction: Any) -> Any:
        return [None if tag == UNTAGGED else (self.names or [])[tag] for tag in prediction]

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        counts = Counter(tag for tags in encoded.labels if tags is not None for tag in tags)
        return {name: counts[number] for number, name in enumerate(self.names or [])} | hidden_count(encoded)


def _tags(cell: Any, has_hidden: bool) -> list[str] | None:
    """Return a sentence's tags as texts; None where one is missing or hidden."""
    tags = [label_text(tag) for tag in parse_list(cell, may_be_numbers=True)]
    known = [tag for tag in tags if tag is not None and not (has_hidden and tag == "-1")]
    return known if tags and len(known) == len(tags) else None


def _best_tags(scores: np.ndarray) -> list[int]:
    best = np.nan_to_num(scores, nan=-np.inf).argmax(axis=-1)
    return np.where(np.isnan(scores).any(axis=-1), UNTAGGED, best).tolist()  # type: ignore[no-any-return]


def _needs_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether words given one by one lack the space before them, as with byte-level tokenizers."""
    separate = tokenizer(["a", "film"], is_split_into_words=True)["input_ids"]
    return bool(separate != tokenizer("a film")["input_ids"])
