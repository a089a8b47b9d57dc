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

ANSWER_TOKENS = 64  # maximum length of an answer where task.max_target_length is not set
REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")  # log-likelihoods of the reference, under TRL's names


@dataclass(frozen=True)
class PreferenceFormat(Format):
    """Direct preference optimization (Rafailov et al. 2023): which of two answers to a prompt is better.

    The chat template formats prompts of turns, and with `task.chat` also texts; other texts are followed by a line
    break, and their answers end with the end-of-text token. Prompt and answers are tokenized separately, so that both
    answers follow the same tokens.

    The implicit reward of an answer is `task.beta` times the difference of its log-likelihoods under the model and the
    reference (section 4). The prediction of a pair is the margin: the reward of the chosen minus that of the rejected.
    """

    reader = PreferenceReader
    output_kind = "preferences"

    @property
    def max_answer_tokens(self) -> int:
        """The maximum number of tokens of an answer."""
        return self.task.max_target_length or ANSWER_TOKENS

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize the last `task.max_length` tokens of a prompt, and the first `task.max_target_length` of answers.

        `positions` are the lengths of both answers, and whether they are equal after truncation.
        """
        prompts, *answers = (list(examples[column]) for column in self.task.text)
        columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
        truncated = 0
        for prompt, *both in zip(prompts, *answers, strict=True):
            pairs = [self._ids(prompt, answer) for answer in both]
            before, (chosen, rejected) = pairs[0][0], [ids for _, ids in pairs]
            truncated += len(before) > self._room or max(len(chosen), len(rejected)) > self.max_answer_tokens
            cut = (before[-self._room :], chosen[: self.max_answer_tokens], rejected[: self.max_answer_tokens])
            for name, ids in zip(columns, cut, strict=True):
                columns[name].append(ids)
        ids_of = list(zip(*columns.values(), strict=True))
        lengths = [2 * len(before) + len(chosen) + len(rejected) for before, chosen, rejected in ids_of]
        positions = [(len(chosen), len(rejected), chosen == rejected) for _, chosen, rejected in ids_of]
        labels = np.zeros(len(examples))
        known: np.ndarray = np.ones(len(examples), dtype=bool)
        return Encoded(Dataset.from_dict(columns), lengths, truncated, labels, known, None, positions)

    def prompts(self, values: Sequence[Any]) -> list[list[int]]:
        """Return the tokens of each prompt, which an answer follows."""
        return [self._prompt_ids(value)[-self._room :] for value in values]

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return preference_collator(self.tokenizer)

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        """Return margins; the scores are both rewards, the log-likelihood of the chosen answer, and its tokens.

        Without a reference, margins are NaN, and the log-likelihoods replace the rewards.
        """
        logps, sizes = np.stack(scores).astype(float), np.array([chosen for chosen, _, _ in encoded.positions])
        rewards, margins = logps, np.full(len(logps), np.nan)
        if set(REFERENCE_COLUMNS) <= set(encoded.inputs.column_names):
            reference = np.array([encoded.inputs[name] for name in REFERENCE_COLUMNS]).T
            rewards = float(self.task.beta or 1) * (logps - reference)
            margins = rewards[:, 0] - rewards[:, 1]
        summary = np.column_stack([rewards, logps[:, 0], sizes])
        return Predictions(margins, list(summary), (-logps[:, 0], sizes))

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        alike = sum(is_alike for _, _, is_alike in encoded.positions)
        return {"pairs": len(encoded.positions)} | ({"alike once cut": alike} if alike else {})

    @property
    def _room(self) -> int:
        """The tokens of a prompt that leave room for an answer."""
        return prompt_room(self.task.max_length, self.tokenizer.model_max_length, self.max_answer_tokens)

    def _turns(self, prompt: Any) -> list[Turn] | None:
        """Return the turns for the chat template; None for a text without it."""
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
        """Return a text formatted by `task.template`."""
        return prompt if self.task.template is None else self.task.template.format(**{self.task.text[0]: prompt})
