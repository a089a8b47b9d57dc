"""Prompting: classes and numbers by the likelihoods of their verbalizers, without training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.data.formats.base import Encoded, Format, Predictions, label_mask
from peftkit.data.formats.classification import label_array
from peftkit.data.formats.few_shot import context_length, prepend_shots, shot_ids
from peftkit.data.formats.text_to_text import (
    fill_template,
    pad_verbalizer,
    similarity_scores,
    text_to_text_template,
)
from peftkit.data.prompts import prompt_template, verbalizer_of

ANCHOR = "answer:"  # precedes a word to find its tokens: many tokenizers encode the first word of a text differently


@dataclass(frozen=True)
class PromptedFormat(Format):
    """Classes and numbers from a prompted language model without training (Brown et al. 2020, section 2).

    A decoder reads `task.prompt`; an encoder-decoder its text-to-text template unless that is set. `shots` are whole
    examples before it. The score of a label is the mean log-likelihood of the tokens of its verbalizer; with
    `calibrate`, the log-likelihood minus that after the last words of the prompt only (section 2.4). A number is the
    average of those with a verbalizer, weighted by their likelihoods (Gao et al. 2021, section 4.2).
    """

    calibrate: bool = False
    shots: tuple[str, ...] = ()
    context: int | None = None  # positions of the model, where they are fewer than the tokenizer's limit
    output_kind = "verbalizer"

    @cached_property
    def template(self) -> str:
        if self.is_decoder:
            return prompt_template(self.task, self.names).text
        return self.task.prompt or text_to_text_template(self.task)

    @cached_property
    def verbalizer(self) -> dict[str, str]:
        """The text of each label, or of some numbers."""
        if self.is_decoder:
            return prompt_template(self.task, self.names).verbalizer
        if self.names is None and not self.task.verbalizer:
            return {f"{value:.1f}": f"{value:.1f}" for value in similarity_scores()}
        return verbalizer_of(self.task, self.names, {name: name for name in self.names or []})

    @cached_property
    def values(self) -> np.ndarray:
        """The class ids or numbers (labels,) of the verbalizer."""
        return (
            np.array([float(number) for number in self.verbalizer])
            if self.names is None
            else np.arange(len(self.names))
        )

    @cached_property
    def verbalizer_ids(self) -> np.ndarray:
        """The token ids (labels, tokens) of the verbalizer, padded with -100."""
        return pad_verbalizer([self._word_ids(word) for word in self.verbalizer.values()], "task.verbalizer")

    def shot_group(self, label: Any) -> int:
        """Return the index of the value nearest to a label."""
        return int(np.abs(self.values - label).argmin())

    def render_shot(self, row: dict[str, Any]) -> str:
        """Return an example with its answer as a few-shot example."""
        word = list(self.verbalizer.values())[self.shot_group(row["label"])]
        return f"{self.template.format(**{name: row[name] for name in self.task.text})} {word}"

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize at most `task.max_length` tokens of each prompt, with as many few-shot examples before it as fit.

        Truncation removes the start of a decoder's prompt, and the end of an encoder-decoder's. With `calibrate`, one
        more input has the last words of the prompt only.
        """
        columns, shots = list(self.task.text), shot_ids(self.tokenizer, self.shots)
        texts = fill_template(self.template, columns, examples)
        room = context_length(self.tokenizer, self.context) - (self.verbalizer_ids.shape[1] if self.is_decoder else 0)
        limit = min(self.task.max_length, room)
        begin, inputs, truncated, dropped = self.tokenizer.bos_token_id, [], 0, 0
        for ids in self.tokenizer(texts, verbose=False)["input_ids"] if texts else []:
            truncated += len(ids) > limit
            ids, missing = prepend_shots(shots, self._cut(list(ids), limit), room, begin)
            inputs.append(ids)
            dropped += missing
        if self.calibrate:
            inputs.append(self._context())
        table = Dataset.from_dict({"input_ids": inputs, "attention_mask": [[1] * len(ids) for ids in inputs]})
        lengths = [len(ids) for ids in inputs]
        return Encoded(table, lengths, truncated, label_array(examples), label_mask(examples), dropped_shots=dropped)

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        logps = np.stack(scores).astype(float)
        logps = logps[:-1] - logps[-1] if self.calibrate else logps / (self.verbalizer_ids >= 0).sum(axis=-1)
        if self.names is not None:
            return Predictions(self.values[logps.argmax(axis=-1)], list(logps))
        shares = np.exp(logps - logps.max(axis=-1, keepdims=True))
        return Predictions(shares @ self.values / shares.sum(axis=-1), list(logps))

    def _cut(self, ids: list[int], limit: int) -> list[int]:
        if len(ids) <= limit:
            return ids
        lead = ids[:1] if ids[0] == self.tokenizer.bos_token_id else []
        if self.is_decoder:
            return lead + ids[len(lead) - limit :]
        return [*ids[: limit - 1], ids[-1]]  # keep the end-of-text token

    def _context(self) -> list[int]:
        """Return the tokens of the prompt after its last column; the end-of-text token where there are none."""
        text = self.template.rpartition("}")[2].strip()
        ids = list(self.tokenizer(text)["input_ids"]) if text else []
        return ids or [self.tokenizer.eos_token_id]

    def _word_ids(self, word: str) -> list[int]:
        if not self.is_decoder:
            return list(self.tokenizer(text_target=word)["input_ids"])
        before, whole = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (ANCHOR, f"{ANCHOR} {word}")
        )
        if whole[: len(before)] == before:
            return list(whole[len(before) :])
        return list(self.tokenizer(f" {word}", add_special_tokens=False)["input_ids"])
