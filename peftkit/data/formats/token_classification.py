"""Token classification: the first sub-word of each word gets the word's tag."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, List, Value
from transformers import DataCollatorForTokenClassification

from peftkit.config import UserError, refusal
from peftkit.config.console import assume
from peftkit.config.tag_schemes import SPAN_TAG, scheme_of
from peftkit.data.arrow_columns import Cells
from peftkit.data.cells import CellError, describe, text_of
from peftkit.data.columns import text_columns
from peftkit.data.formats.base import Encoded, Format, Predictions, hidden_count, label_mask
from peftkit.data.formats.classification import ClassLabelReader, class_feature
from peftkit.data.labels import label_text
from peftkit.data.tables import parse_list

UNTAGGED = -1  # for a word that was truncated or that the tokenizer drops; it counts as wrong


class TagReader(ClassLabelReader):
    """Reads one tag for each word; words and tags are lists, or texts with spaces between."""

    @property
    def label_feature(self) -> Any:
        return List(Value("int64"))

    def read_all(
        self, tables: Mapping[str, Dataset], names: list[str] | None
    ) -> tuple[dict[str, Dataset], dict[str, int]]:
        """Return the examples of each table, and how many were dropped; log the scheme of their tags.

        Raises:
            UserError: the splits, whose spans are scored, have different schemes.
        """
        splits, dropped = super().read_all(tables, names)
        if "entity_f1" not in self.task.metrics or not names or not all(map(SPAN_TAG.fullmatch, names)):
            return splits, dropped
        schemes: dict[str, str] = {}
        for split, examples in splits.items():
            tags = [[names[tag] for tag in label] for label in examples["label"][:] if label is not None]
            if (scheme := scheme_of(tags, names)) is not None:
                schemes.setdefault(scheme, split)
        if len(schemes) > 1:
            found = " and ".join(f"{split} in {scheme}" for scheme, split in schemes.items())
            raise UserError(f"task={self.task.name} has tags of two schemes, {found}; convert one of them")
        for scheme in schemes:
            assume(f"task={self.task.name}: the tags are in {scheme}, and spans are scored by it")
        return splits, dropped

    def parse_text(self, cell: Any) -> Any:
        """Return the words of a cell."""
        words = parse_list(cell)
        if isinstance(cell, list) and any(isinstance(word, int) for word in words):
            raise CellError(f'{describe(cell)}, not of words; write texts, such as ["a", "7"]')
        return [text_of(word) for word in words]

    def raw_labels(self, table: Dataset, split: str) -> list[Any]:
        has_hidden = class_feature(self.task, table) is not None
        return self.parse_labels(table, split, lambda cell: _tags(cell, has_hidden))

    def label_parser(self, table: Dataset, names: list[str] | None, split: str) -> Callable[[Any], Any]:
        class_id = self.class_id(table, names or [], split)
        return lambda tags: [class_id(tag) for tag in tags]

    def final_labels(
        self, labels: Sequence[Any], texts: Sequence[Cells], parse: Callable[[Any], Any], split: str
    ) -> list[Any]:
        def ids(tags: list[str], words: list[str]) -> list[int]:
            if len(tags) != len(words):
                raise UserError(
                    f"an example of {split} has {len(words)} words and {len(tags)} tags: {' '.join(words)[:60]}; "
                    "write one tag for each word"
                )
            return parse(tags)  # type: ignore[no-any-return]

        (words,) = texts
        return [None if tags is None else ids(tags, each) for tags, each in zip(labels, words, strict=True)]


@dataclass(frozen=True)
class TokenClassificationFormat(Format):
    """Token classification: the first sub-word of each word is labeled (Devlin et al. 2019, section 5.3)."""

    reader = TagReader
    collator_class = DataCollatorForTokenClassification

    def __post_init__(self) -> None:
        wrong = [name for name in self.names or [] if not SPAN_TAG.fullmatch(name)]
        if "entity_f1" in self.task.metrics and wrong:
            message = f"task.metrics=[entity_f1] needs span tags such as B-PER, I-PER and O, not {wrong[0]}"
            raise UserError(refusal(message, "task.metrics=[token_accuracy]", verb="set"))

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize word by word, at most `task.max_length` tokens; `positions` are the words' first tokens."""
        limit = min(self.task.max_length, self.tokenizer.model_max_length)
        # words one by one lack the space before them with byte-level tokenizers
        separate = self.tokenizer(["a", "film"], is_split_into_words=True)["input_ids"]
        space = " " if separate != self.tokenizer("a film")["input_ids"] else ""
        words = [
            [f"{space}{word}" if n else word for n, word in enumerate(each)]
            for each in examples[text_columns(self.task)[0]][:]
        ]
        out = self.tokenizer(words, is_split_into_words=True, truncation=True, max_length=limit)
        labels = examples["label"][:]
        positions, targets, truncated = [], [], 0
        for number, (sentence, tags) in enumerate(zip(words, labels, strict=True)):
            word_of = out.word_ids(number)
            first = {word: token for token, word in reversed(list(enumerate(word_of))) if word is not None}
            positions.append([first.get(word, UNTAGGED) for word in range(len(sentence))])
            truncated += max(first, default=-1) < len(sentence) - 1 and len(word_of) >= limit
            is_first = [first.get(word) == token for token, word in enumerate(word_of)]
            targets.append(
                [tags[word] if tags and is_tag else -100 for word, is_tag in zip(word_of, is_first, strict=True)]
            )
        inputs = Dataset.from_dict({**out, "labels": targets})
        return Encoded(inputs, list(map(len, targets)), truncated, labels, label_mask(examples), positions=positions)

    def unpad(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return the scores (words, tags) of each sentence; NaN for a word without a token."""
        return [
            np.where(tokens[:, None] == UNTAGGED, np.nan, row[np.maximum(tokens, 0)].astype(float))
            for row, tokens in zip(scores, (np.array(each, dtype=int) for each in encoded.positions), strict=True)
        ]

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
