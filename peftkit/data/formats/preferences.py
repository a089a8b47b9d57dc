"""Preferences: a prompt with a chosen and a rejected answer, scored by the margin of their rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.data.chat import Turn, encode_answered, encode_prompt, ensure_chat_template
from peftkit.data.collate import preference_collator
from peftkit.data.formats.base import Encoded, Format, Predictions, prompt_room
from peftkit.data.preference_pairs import PreferenceReader

ANSWER_TOKENS = 64  # the longest answer, where task.max_target_length says nothing
REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")  # columns of what the reference says, under TRL's names


@dataclass(frozen=True)
class PreferenceFormat(Format):
    """Direct preference optimisation (Rafailov et al. 2023): which of two answers to a prompt is the better.

    A prompt of turns is read by the tokenizer's chat template, and so is a text where `task.chat` says so; else a text
    is read as it is, with a line break after it, and an answer ends with the end-of-text token. Prompt and answers are
    tokenised apart, so that both answers follow the same tokens.

    An answer's implicit reward is `task.beta` times how much likelier it is under the model than under the reference
    (section 4); the prediction of a pair is the margin, the reward of the chosen answer less that of the rejected.
    """

    reader = PreferenceReader
    output_kind = "preferences"

    @property
    def max_answer_tokens(self) -> int:
        """Return how many tokens an answer has at most."""
        return self.task.max_target_length or ANSWER_TOKENS

    def encode(self, rows: Dataset) -> Encoded:
        """Tokenise the last `task.max_length` tokens of a prompt, and the first `task.max_target_length` of answers.

        `positions` are the tokens of both answers, and whether they are alike once cut.
        """
        prompt, *answers = (list(rows[column]) for column in self.task.text)
        columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
        truncated = 0
        for asked_for, *both in zip(prompt, *answers, strict=True):
            pairs = [self._ids(asked_for, answer) for answer in both]
            before, (chosen, rejected) = pairs[0][0], [ids for _, ids in pairs]
            truncated += len(before) > self._room or max(len(chosen), len(rejected)) > self.max_answer_tokens
            cut = (before[-self._room :], chosen[: self.max_answer_tokens], rejected[: self.max_answer_tokens])
            for name, ids in zip(columns, cut, strict=True):
                columns[name].append(ids)
        rows_ids = list(zip(*columns.values(), strict=True))
        lengths = [2 * len(before) + len(chosen) + len(rejected) for before, chosen, rejected in rows_ids]
        places = [(len(chosen), len(rejected), chosen == rejected) for _, chosen, rejected in rows_ids]
        known: np.ndarray = np.ones(len(rows), dtype=bool)
        return Encoded(Dataset.from_dict(columns), lengths, truncated, np.zeros(len(rows)), known, None, places)

    def prompts(self, values: Sequence[Any]) -> list[list[int]]:
        """Return the tokens after which an answer to each prompt is to be written."""
        return [self._prompt_ids(value)[-self._room :] for value in values]

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return preference_collator(self.tokenizer)

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        """Return margins; as scores, both rewards, the log-likelihood of the chosen answer, and its tokens.

        Where the reference was not asked, a margin is no number, and the log-likelihoods stand for the rewards.
        """
        said, sizes = np.stack(scores).astype(float), np.array([chosen for chosen, _, _ in encoded.positions])
        rewards, margins = said, np.full(len(said), np.nan)
        if set(REFERENCE_COLUMNS) <= set(encoded.inputs.column_names):
            rewards = float(self.task.beta or 1) * (
                said - np.array([encoded.inputs[name] for name in REFERENCE_COLUMNS]).T
            )
            margins = rewards[:, 0] - rewards[:, 1]
        told = np.column_stack([rewards, said[:, 0], sizes])
        return Predictions(margins, list(told), (-said[:, 0], sizes))

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        alike = sum(is_alike for _, _, is_alike in encoded.positions)
        return {"pairs": len(encoded.positions)} | ({"alike once cut": alike} if alike else {})

    @property
    def _room(self) -> int:
        """Return how many tokens of a prompt leave room for an answer."""
        return prompt_room(self.task.max_length, self.tokenizer.model_max_length, self.max_answer_tokens)

    def _turns(self, prompt: Any) -> list[Turn] | None:
        """Return what is read by the chat template, None for a text that is read as it is."""
        if isinstance(prompt, str):
            is_chat = self.task.chat if self.task.chat is not None else self.tokenizer.chat_template is not None
            if not is_chat:
                return None
            prompt = [{"role": "user", "content": self._text(prompt)}]
        ensure_chat_template(self.tokenizer)
        return list(prompt)

    def _prompt_ids(self, prompt: Any) -> list[int]:
        turns = self._turns(prompt)
        if turns is not None:
            return encode_prompt(self.tokenizer, turns)
        text = self._text(prompt)
        return list(self.tokenizer(text if self.task.template else f"{text}\n", verbose=False)["input_ids"])

    def _ids(self, prompt: Any, answer: str) -> tuple[list[int], list[int]]:
        turns = self._turns(prompt)
        if turns is not None:
            return encode_answered(self.tokenizer, [*turns, {"role": "assistant", "content": answer}])
        ids = self.tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
        return self._prompt_ids(prompt), [*ids, self.tokenizer.eos_token_id]

    def _text(self, prompt: str) -> str:
        """Return a text in its template."""
        return prompt if self.task.template is None else self.task.template.format(**{self.task.text[0]: prompt})
