"""Text generation: causal language modeling, and text to text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset, List, Value

from peftkit.config.console import assume
from peftkit.data.batches import BlockCollator
from peftkit.data.cells import CellError, describe, text_of
from peftkit.data.columns import text_columns
from peftkit.data.datasets import ExampleReader
from peftkit.data.formats.base import (
    SHOT_SEPARATOR,
    Encoded,
    Format,
    Predictions,
    answer_separator,
    continuations,
    fill_template,
    frequent_answer,
    hidden_count,
    label_mask,
    tokenize,
)


class ReferenceReader(ExampleReader):
    """Reads the label of each example: a text, or a list of texts, which are several references."""

    def raw_labels(self, table: Dataset, split: str) -> list[Any]:
        labels = self.parse_labels(table, split, _references)
        if all(len(label) < 2 for label in labels if label):
            return [label[0] if label else None for label in labels]
        column = f"{self.task.dataset}: column {self.task.label} of {split}"
        assume(f"{column} has several references for some texts: training uses the first, scores the best")
        return [label or None for label in labels]

    def feature_of(self, labels: Sequence[Any]) -> Any:
        return List(Value("string")) if any(isinstance(label, list) for label in labels) else self.label_feature


def _references(cell: Any) -> list[str]:
    """Return the texts of a cell, without empty ones."""
    is_list = isinstance(cell, list)
    if is_list and not all(isinstance(each, str) for each in cell):
        raise CellError(f"{describe(cell)}, not a text or several references; write texts")
    return [text for each in (cell if is_list else [cell]) if (text := text_of(each))]


def first_reference(label: Any) -> Any:
    """Return a label that is a text, or the first of several references."""
    return label[0] if isinstance(label, list) else label


@dataclass(frozen=True)
class TextGenerationFormat(Format):
    """Causal language modeling and text to text.

    A decoder without a label column models its text, token by token; with one, the label after the text, and only the
    label counts. An encoder-decoder reads the text and generates the label. The text is `task.template`, else the
    columns separated by line breaks. The whitespace between a prompt and its answer belongs to the answer. An answer
    generated after few-shot examples ends at a blank line, as theirs do.
    """

    reader: ClassVar[type[ExampleReader]] = ReferenceReader
    output_kind = "likelihoods"
    collator_class = BlockCollator
    stop_text = SHOT_SEPARATOR

    @property
    def max_new_tokens(self) -> int | None:
        return None if self.task.label is None else self.task.answer_length

    @property
    def reserved(self) -> int:
        return max(super().reserved, self.task.target_length) if super().reserved else 0

    @cached_property
    def prompt_limit(self) -> int:
        """The maximum number of tokens of a prompt."""
        return self.max_prompt_tokens(self.reserved)

    def shot_group(self, label: Any) -> int:
        """Return the group that few-shot examples are balanced over: all texts are in one."""
        return 0

    def render_shot(self, row: dict[str, Any]) -> str:
        """Return an example with its answer as a few-shot example."""
        texts = [row[column] for column in text_columns(self.task)]
        return f"{self._text(texts)}{self._answer_text(first_reference(row['label']))}"

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize at most `task.max_length` tokens of text and `task.max_target_length` of label.

        `positions` are the mask of scored tokens, and the prompt (tokens,).
        """
        values = zip(*(examples[column][:] for column in text_columns(self.task)), strict=True)
        texts = [self._text(row) for row in values]
        if self.is_decoder and self.max_new_tokens is not None:
            # the model continues from the end of a prompt, so its start is truncated
            whole = self.tokenizer(texts, verbose=False)["input_ids"]
            prompts, is_truncated = (
                [ids[-self.prompt_limit :] for ids in whole],
                [len(ids) > self.prompt_limit for ids in whole],
            )
        else:
            out = tokenize(self.tokenizer, [texts], self.task.max_length)
            prompts, is_truncated = out["input_ids"], out["truncated"]
        labels = [first_reference(label) or "" for label in examples["label"][:]]
        answers = self._answer_ids(labels) if self.max_new_tokens else None
        return self.encode_pairs(examples, prompts, answers, is_truncated)

    def encode_pairs(
        self,
        examples: Dataset,
        prompts: list[list[int]],
        answers: list[list[int]] | None,
        is_truncated: list[bool],
        **more: Any,
    ) -> Encoded:
        """Return inputs of prompts and answers, where only the answers have labels; without answers all tokens have."""
        prompts, dropped = self.with_shots(prompts, self.reserved)
        inputs, targets, known = prompts, prompts, np.full(len(prompts), True)
        is_scored = [np.arange(len(row)) > 0 for row in prompts]  # the first token of a text has no context
        if answers is not None:
            is_truncated = [
                cut or len(ids) > self.task.target_length for cut, ids in zip(is_truncated, answers, strict=True)
            ]
            targets, known = [ids[: self.task.target_length] for ids in answers], label_mask(examples)
            if self.is_decoder:
                inputs = [[*row, *ids] for row, ids in zip(prompts, targets, strict=True)]
                targets = [[-100] * len(row) + ids for row, ids in zip(prompts, targets, strict=True)]
            is_scored = [np.array(row) >= 0 for row in targets]
        masks = [[1] * len(row) for row in inputs]
        table = Dataset.from_dict({"input_ids": inputs, "attention_mask": masks, "labels": targets})
        return Encoded(
            table,
            [len(row) for row in inputs],
            sum(is_truncated),
            [[label] if isinstance(label, str) else label for label in examples["label"][:]],
            known,
            positions=list(zip(is_scored, prompts, strict=True)),
            dropped_shots=dropped,
            **more,
        )

    def unpad(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return the log-likelihoods (tokens,) of the scored tokens."""
        return [row[: len(seen)][seen] for row, (seen, _) in zip(scores, encoded.positions, strict=True)]

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        known = encoded.has_label  # the empty text in place of a hidden label is not scored
        nats = np.where(known, [-row.sum() for row in scores], 0.0)
        tokens = np.where(known, [len(row) for row in scores], 0)
        summary = [np.array(pair if is_known else []) for is_known, *pair in zip(known, nats, tokens, strict=True)]
        if self.shots and self.stop_text and texts is not None:
            texts = [text.partition(self.stop_text)[0].strip() for text in texts]
        predictions = nats / np.maximum(tokens, 1) if texts is None else texts
        return Predictions(predictions, summary, (nats, tokens))

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        tokens = sum(seen.sum() for known, (seen, _) in zip(encoded.has_label, encoded.positions, strict=True) if known)
        known = [label for label, is_known in zip(encoded.labels or [], encoded.has_label, strict=False) if is_known]
        answers = frequent_answer(first_reference(label) or "" for label in known) if self.max_new_tokens else {}
        return {"tokens": int(tokens)} | hidden_count(encoded) | answers

    def _text(self, texts: Sequence[str]) -> str:
        if self.task.template is not None:
            return fill_template(self.task.template, dict(zip(self.task.text, texts, strict=True)))
        is_prompt = self.max_new_tokens is not None
        return "\n".join(filter(None, map(str.strip, texts)) if is_prompt else texts)

    def _answer_text(self, label: str) -> str:
        return label if label[:1].isspace() else f"{answer_separator(self.task.template)}{label}"

    def _answer_ids(self, labels: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each label with the end-of-text token."""
        if self.is_decoder:
            return [[*ids, self.end_id] for ids in continuations(self.tokenizer, list(map(self._answer_text, labels)))]
        return [list(ids) for ids in self.tokenizer(text_target=list(labels))["input_ids"]] if labels else []
