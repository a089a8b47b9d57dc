"""Sequence classification and regression: labels, and formats with a classification head, or as text."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Value
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase

from peftkit.config import Refusal, TaskConfig, UserError, kind_of, label_columns
from peftkit.config.console import assume
from peftkit.config.label_names import boolean_hint, label_name
from peftkit.config.progress import advance
from peftkit.config.quoting import typed
from peftkit.config.suggestions import listed
from peftkit.data.arrow_columns import list_lengths, unhashed
from peftkit.data.columns import ID, require_columns, text_columns
from peftkit.data.datasets import SUBSET_SEED, ExampleReader
from peftkit.data.formats.base import Encoded, Format, Predictions, fill_template, label_mask, tokenize
from peftkit.data.labels import (
    NUMBER,
    check_other_labels,
    difference,
    join_labels,
    label_text,
    log_spellings,
    number_of,
    ordered_number,
    sort_names,
)
from peftkit.data.stratified import stratified_split
from peftkit.data.tokenized import tokenize_examples

STSB_STEP = 0.2  # T5 paper, section 2.4: scores are rounded to the nearest increment of 0.2 and written as text
MAX_CLASSES = 1000


class ClassLabelReader(ExampleReader):
    """Reads one class for each example, a list of them in subclasses, or a number where the kind has no classes."""

    @property
    def label_feature(self) -> Any:
        return Value("int64" if kind_of(self.task).has_label_names else "float64")

    def label_names(self, tables: Mapping[str, Dataset]) -> list[str] | None:
        """Return the names of `task.labels`, else those of a ClassLabel, else those that occur; None for numbers.

        Raises:
            UserError: no table has the label column, there are too many classes, or splits number them differently.
        """
        task = self.task
        if not kind_of(task).has_label_names:
            return None
        if task.labels is not None:
            return [str(label_text(name)) for name in task.labels]
        labeled = {name: table for name, table in tables.items() if str(task.label) in table.column_names}
        for table in tables.values() if not labeled else ():
            require_columns(task, table, label_columns(task))
        for table in labeled.values():
            if (feature := class_feature(task, table)) is not None:
                return list(feature.names)
        names: set[str] = set()
        for split, table in labeled.items():
            labels = [label for label in self.raw_labels(table, split) if label is not None]
            more = {name for label in labels for name in ([label] if isinstance(label, str) else label)} - names
            if len(names) + len(more) > MAX_CLASSES:
                wrong = f"column {task.label} has over {MAX_CLASSES} classes"
                raise UserError(Refusal(f"{wrong}; use task=regression, or set task.label", "task=regression"))
            if names and more:
                check_other_labels(names, more, (next(iter(labeled)), split), f"{task.dataset}: column {task.label}")
            names |= more
        log_spellings(names)
        return sort_names(names)

    def raw_labels(self, table: Dataset, split: str) -> list[Any]:
        has_hidden = self.task.suite == "glue" or class_feature(self.task, table) is not None
        labels = self.parse_labels(table, split, label_text)
        return [None if has_hidden and label == "-1" else label for label in labels]

    @property
    def is_stratified(self) -> bool:
        kind = kind_of(self.task)
        return kind.has_label_names and kind.sequence_label and self.task.stratify is not False

    def split(self, examples: Dataset, size: float, use: str = "validation") -> tuple[Dataset, Dataset]:
        """Split off a number or a share of examples with the shares of the labels, the same for every seed."""
        if not self.is_stratified:
            return super().split(examples, size, use)
        is_table = ID in examples.column_names
        labels = self.raw_labels(examples, "train") if is_table else examples["label"][:]
        kept, held_out = stratified_split(labels, size, SUBSET_SEED)
        found, held = {*labels} - {None}, {labels[index] for index in held_out}
        counts = f"{len(held_out):,} of {len(labels):,} examples"
        assume(f"{counts} are held out for {use}, stratified by {self.task.label}", waits=True)
        if missing := len(found - held):
            assume(
                f"!! {missing} of {len(found)} labels have no held-out example, as they have few examples", waits=True
            )
        return examples.select(kept).flatten_indices(), examples.select(held_out).flatten_indices()

    def label_parser(self, table: Dataset, names: list[str] | None, split: str) -> Callable[[Any], Any]:
        if self.task.label_order is not None:
            numbers = {label_name(name): float(place) for place, name in enumerate(self.task.label_order, start=1)}
            return lambda label: ordered_number(self.task, numbers, label)
        return number_of if names is None else self.class_id(table, names, split)

    def class_id(self, table: Dataset, names: list[str], split: str) -> Callable[[str], int]:
        """Return a function from a class name to its id."""
        classes = _class_ids(self.task, table, names)

        def id_of(label: str) -> int:
            if label not in classes:
                wrong = (
                    f"{self.task.dataset}: label {label} of {split} is not among "
                    f"{listed(names)}{difference(label, names)}"
                )
                if hint := boolean_hint(self.task.labels or ()):
                    raise UserError(f"{wrong}{hint}")
                more = typed("task.labels", [*names, label])
                raise UserError(Refusal(f"{wrong}; correct it, or set {more}", more))
            return classes[label]

        return id_of


@dataclass(frozen=True)
class SequenceClassificationFormat(Format):
    """Sequence classification, and regression where `names` is None."""

    reader = ClassLabelReader

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize at most `task.max_length` tokens per example."""
        tokens = tokenize_examples(self, examples, self._tokens)
        inputs = tokens.drop_columns(["truncated"])
        return Encoded(
            unhashed(inputs.append_column("labels", pa.array(self._targets(examples)))),
            list_lengths(inputs["input_ids"]),
            sum(tokens["truncated"].to_pylist()),
            self.label_values(examples),
            label_mask(examples),
        )

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        logits = np.stack(scores)
        return Predictions(logits[:, 0] if self.names is None else logits.argmax(axis=-1), scores)

    def describe(self, prediction: Any) -> Any:
        """Return the name of a class, a number, or the nearest of the ordered labels."""
        order = self.task.label_order
        if order is None:
            return super().describe(prediction)
        return label_name(order[int(np.clip(np.rint(prediction), 1, len(order))) - 1])

    def label_values(self, examples: Dataset) -> np.ndarray:
        """Return the labels (examples, ...) as the metrics read them."""
        return label_array(examples)

    def _tokens(self, batch: dict[str, list]) -> dict[str, Any]:
        texts = self.input_texts(batch)
        advance(len(texts[0]))
        return tokenize(self.tokenizer, texts, self.task.max_length)

    def input_texts(self, batch: dict[str, list]) -> list[list[str]]:
        """Return the columns of texts that are tokenized together."""
        texts = [batch[column] for column in text_columns(self.task)]
        # GPT-2 has no format for a pair of texts
        return [["\n".join(parts) for parts in zip(*texts, strict=True)]] if self.is_decoder else texts

    def _targets(self, examples: Dataset) -> np.ndarray | list[Any]:
        """Return the training targets; they are not used where the label is hidden."""
        return label_array(examples)


@dataclass(frozen=True)
class TextToTextFormat(SequenceClassificationFormat):
    """Classification and regression as text (T5 paper, section 2.4 and appendix D), in the format of `task.template`.

    `values` holds the class ids, or the numbers 0.0, 0.2 ... 5.0 of a regression; `verbalizer_ids` their tokens.
    """

    output_kind = "verbalizer"
    collator_class = DataCollatorForSeq2Seq

    @cached_property
    def values(self) -> np.ndarray:
        return similarity_scores() if self.names is None else np.arange(len(self.names))

    @cached_property
    def verbalizer_ids(self) -> np.ndarray:
        words = [f"{value:.1f}" for value in self.values] if self.names is None else self.names
        ids = {word: list(self.tokenizer(text_target=word)["input_ids"]) for word in words}
        return pad_verbalizer(ids, self.tokenizer, None if self.names is None else "task.labels")

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        return Predictions(self.values[np.stack(scores).argmax(axis=-1)], scores)

    def input_texts(self, batch: dict[str, list]) -> list[list[str]]:
        return [fill_columns(text_to_text_template(self.task), self.task, batch)]

    def _targets(self, examples: Dataset) -> list[Any]:
        targets = [[int(token) for token in row if token >= 0] for row in self.verbalizer_ids]
        return [targets[0 if label is None else self._nearest(label)] for label in examples["label"][:]]

    def _nearest(self, label: float) -> int:
        if not self.values.min() <= label <= self.values.max():
            message = (
                f"label {label} is outside 0 to 5, the scores that a text-to-text model generates; "
                "rescale it, or use model=bert or model=gpt2"
            )
            raise UserError(Refusal(message, "model=bert ~model.checkpoint"))
        return int(np.abs(self.values - label).argmin())


def label_array(examples: Dataset) -> np.ndarray:
    """Return class ids or numbers (examples,); -1 or NaN where the label is hidden."""
    hidden = math.nan if examples.features["label"].dtype == "float64" else -1
    return np.array([hidden if label is None else label for label in examples["label"][:]])


def similarity_scores() -> np.ndarray:
    """Return the numbers 0.0, 0.2 ... 5.0."""
    return np.round(np.arange(0, 5 + STSB_STEP / 2, STSB_STEP), 1)


def text_to_text_template(task: TaskConfig) -> str:
    """Return the input template of T5 (T5 paper, appendix D)."""
    return task.template or f"{task.name} " + " ".join(f"{name}: {{{name}}}" for name in task.text)


def fill_columns(template: str, task: TaskConfig, batch: Any) -> list[str]:
    """Return the template filled with the texts of each example."""
    texts = zip(*(batch[column] for column in text_columns(task)), strict=True)
    return [fill_template(template, dict(zip(task.text, row, strict=True))) for row in texts]


def pad_verbalizer(ids: dict[str, list[int]], tokenizer: PreTrainedTokenizerBase, key: str | None) -> np.ndarray:
    """Return the token ids of texts as an array (labels, tokens), padded with -100.

    Args:
        key: of the texts, None where they are not configurable.

    Raises:
        UserError: two texts have the same tokens, or one has none.
    """
    other = "use a checkpoint whose tokenizer knows them"
    fix = other if key is None else f"set {key} to words that differ, or {other}"
    first: dict[tuple[int, ...], str] = {}
    for text, row in ids.items():
        if not row:
            raise UserError(f"{text!r} has no tokens in this tokenizer; {fix}")
        if (same := first.setdefault(tuple(row), text)) != text:
            tokens = " ".join(tokenizer.convert_ids_to_tokens(row))
            raise UserError(
                f"{same} and {text} have the same tokens in this tokenizer ({tokens}), so the model could not choose "
                f"between them; {fix}"
            )
    longest = max(map(len, ids.values()))
    return np.array([row + [-100] * (longest - len(row)) for row in ids.values()])


def class_feature(task: TaskConfig, table: Dataset) -> ClassLabel | None:
    """Return the ClassLabel of the label column, or of the tags in it."""
    feature = table.features.get(str(task.label))
    feature = getattr(feature, "feature", feature)
    return feature if isinstance(feature, ClassLabel) else None


def _class_ids(task: TaskConfig, table: Dataset, names: list[str]) -> dict[str, int]:
    """Return the class id of every possible label: a name, or a number that is unambiguously an id."""
    feature = class_feature(task, table)
    if feature is not None:
        if set(feature.names) <= set(names):
            return {str(number): names.index(name) for number, name in enumerate(feature.names)}
        if len(feature.names) != len(names) or set(feature.names) & set(names):
            raise UserError(
                f"column {task.label} has the classes {join_labels(feature.names)}, task.labels has "
                f"{join_labels(names)}; name all of them, or rename every one in their order"
            )
        return {str(number): number for number in range(len(names))}
    classes = {str(label_text(name)): number for number, name in enumerate(names)}
    if task.labels is not None and not any(NUMBER.fullmatch(name) for name in names):
        classes |= {str(number): number for number in range(len(names))}
    return classes
