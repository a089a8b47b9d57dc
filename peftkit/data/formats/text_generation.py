"""Text generation: causal language modelling, and text to text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.data.collate import seq2seq_collator
from peftkit.data.formats.base import (
    Encoded,
    Format,
    Predictions,
    hidden_count,
    label_mask,
    prompt_room,
    tokenize,
)
from peftkit.data.formats.few_shot import SHOT_SEPARATOR, context_length, prepend_shots, shot_ids

ANSWER_TOKENS = 64  # the longest label, where task.max_target_length is not set


@dataclass(frozen=True)
class TextGenerationFormat(Format):
    """Causal language modelling and text to text.

    A decoder without a label column models its text, token by token; with one, the label after the text, and only the
    label counts. An encoder-decoder reads the text and generates the label. The text is `task.template`, else the
    columns separated by line breaks. `shots` are whole examples before it, as many as fit; a generated answer then
    ends at a blank line, as theirs do.
    """

    shots: tuple[str, ...] = ()
    context: int | None = None  # positions of the model, where they are fewer than its tokenizer states
    output_kind = "likelihoods"
    stop_text = SHOT_SEPARATOR

    @property
    def max_new_tokens(self) -> int | None:
        return None if self.task.label is None else self.task.max_target_length or ANSWER_TOKENS

    @cached_property
    def room(self) -> int:
        """The tokens of a prompt; of a decoder what it generates takes positions too.

        Raises:
            UserError: there is no room for a prompt.
        """
        positions = context_length(self.tokenizer, self.context)
        return prompt_room(self.task.max_length, positions, (self.max_new_tokens or 0) if self.is_decoder else 0)

    def shot_group(self, label: Any) -> int:
        """Return the group that few-shot examples are balanced over: all texts are in one."""
        return 0

    def render_shot(self, row: dict[str, Any]) -> str:
        """Return an example with its answer, to show before others."""
        text = self._text({name: row[name] for name in self.task.text})
        return f"{text}{'' if text.endswith(chr(10)) else chr(10)}{row['label']}"

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize at most `task.max_length` tokens of text and `task.max_target_length` of label.

        `positions` are the mask of scored tokens, and the prompt (tokens,).
        """
        columns, labels = list(self.task.text), list(examples["label"])
        values = zip(*(examples[column] for column in columns), strict=True)
        texts = [self._text(dict(zip(columns, row, strict=True))) for row in values]
        if self.is_decoder and self.max_new_tokens is not None:
            # the model continues from the end of a prompt, so its start is truncated
            whole = self.tokenizer(texts, verbose=False)["input_ids"]
            read, cut = [ids[-self.room :] for ids in whole], np.array([len(ids) > self.room for ids in whole])
        else:
            prompts = tokenize(self.tokenizer, [texts], self.task.max_length)
            read, cut = prompts["input_ids"], np.array(prompts["truncated"])
        read, dropped = self._with_shots(read)
        if self.max_new_tokens is None:
            counted = [[index > 0 for index in range(len(row))] for row in read]  # the first token has no context
            encoded = _encoded(examples, read, read, read, counted, cut, np.ones(len(labels), dtype=bool))
            return replace(encoded, dropped_shots=dropped)
        answers = [self._answer_ids("" if label is None else label) for label in labels]
        cut |= np.array([len(ids) > self.max_new_tokens for ids in answers])
        encoded = encode_pairs(examples, read, [ids[: self.max_new_tokens] for ids in answers], cut, self.is_decoder)
        return replace(encoded, dropped_shots=dropped)

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return seq2seq_collator(self.tokenizer)

    def unpad(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return the log-likelihoods (tokens,) of the scored tokens."""
        return [row[: len(seen)][seen] for row, (seen, _) in zip(scores, encoded.positions, strict=True)]

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        known = encoded.has_label  # the substitute of a hidden label is not scored
        nats = np.where(known, [-row.sum() for row in scores], 0.0)
        tokens = np.where(known, [len(row) for row in scores], 0)
        summary = [np.array(pair if is_known else []) for is_known, *pair in zip(known, nats, tokens, strict=True)]
        if self.shots and self.stop_text and texts is not None:
            texts = [text.partition(self.stop_text)[0].strip() for text in texts]
        predictions = nats / np.maximum(tokens, 1) if texts is None else texts
        return Predictions(predictions, summary, (nats, tokens))

    def describe(self, prediction: Any) -> Any:
        return float(prediction) if self.max_new_tokens is None else prediction

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        counted = zip(encoded.has_label, encoded.positions, strict=True)
        found = {"tokens": int(sum(seen.sum() for is_known, (seen, _) in counted if is_known))}
        return found | hidden_count(encoded)

    def _text(self, values: dict[str, str]) -> str:
        if self.task.template is not None:
            return self.task.template.format(**values)
        text = "\n".join(values.values())
        return f"{text}\n" if self.is_decoder and self.max_new_tokens is not None else text

    def _with_shots(self, read: list[list[int]]) -> tuple[list[list[int]], int]:
        """Return the prompts with few-shot examples, and the total number that did not fit."""
        if not self.shots:
            return read, 0
        shots, begin = shot_ids(self.tokenizer, self.shots), self.tokenizer.bos_token_id
        room = context_length(self.tokenizer, self.context) - ((self.max_new_tokens or 0) if self.is_decoder else 0)
        whole = [prepend_shots(shots, ids, room, begin) for ids in read]
        return [ids for ids, _ in whole], sum(missing for _, missing in whole)

    def _answer_ids(self, label: str) -> list[int]:
        """Return the tokens of a label with the end-of-text token."""
        if not self.is_decoder:
            return list(self.tokenizer(text_target=label)["input_ids"])
        return [*self.tokenizer(label, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]


def encode_pairs(
    examples: Dataset,
    read: list[list[int]],
    answers: list[list[int]],
    cut: Sequence[bool] | np.ndarray,
    is_decoder: bool,
) -> Encoded:
    """Return inputs of prompts and answers, where only the answers have labels."""
    inputs, targets = read, answers
    if is_decoder:
        inputs = [[*row, *ids] for row, ids in zip(read, answers, strict=True)]
        targets = [[-100] * len(row) + ids for row, ids in zip(read, answers, strict=True)]
    counted = [[token >= 0 for token in row] for row in targets]
    return _encoded(examples, read, inputs, targets, counted, np.asarray(cut), label_mask(examples))


def _encoded(
    examples: Dataset,
    read: list[list[int]],
    inputs: list[list[int]],
    targets: list[list[int]],
    counted: list[list[bool]],
    cut: np.ndarray,
    known: np.ndarray,
) -> Encoded:
    masks = [[1] * len(row) for row in inputs]
    table = Dataset.from_dict({"input_ids": inputs, "attention_mask": masks, "labels": targets})
    labels = [None if label is None else [label] for label in examples["label"]]
    positions = list(zip(map(np.array, counted), read, strict=True))
    return Encoded(table, [len(row) for row in inputs], int(cut.sum()), labels, known, None, positions)
