"""Instruction tuning: chat turns as the prompt, the last answer as the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.data.answer_format import answer_formats
from peftkit.data.chat import Turn, encode_answered, encode_prompt, ensure_chat_template
from peftkit.data.collate import stack_blocks
from peftkit.data.conversations import ConversationReader
from peftkit.data.formats.base import Encoded, Predictions
from peftkit.data.formats.text_generation import ANSWER_TOKENS, TextGenerationFormat, encode_pairs
from peftkit.data.packing import pack_examples


@dataclass(frozen=True)
class InstructionFormat(TextGenerationFormat):
    """Instruction tuning: only answers have labels (Ouyang et al. 2022, section 3.5; Wang et al. 2023, section 4).

    A decoder reads the turns in the chat template of its tokenizer, and the answer ends with the end-of-text token even
    where the template has none. An encoder-decoder reads the texts of the turns, one per line, with their roles where
    the conversation has several turns.
    """

    reader = ConversationReader
    stop_text = ""  # an answer may contain blank lines, and ends with the end-of-text token

    def __post_init__(self) -> None:
        if self.is_decoder:
            ensure_chat_template(self.tokenizer)

    @property
    def max_new_tokens(self) -> int:
        return self.task.max_target_length or ANSWER_TOKENS

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize the last `task.max_length` tokens of prompts and `task.max_target_length` of answers.

        `positions` are the mask of scored tokens, and the prompt (tokens,).
        """
        pairs = [self._pair(turns, label) for turns, label in zip(examples["messages"], examples["label"], strict=True)]
        cut = [len(prompt) > self.room or len(answer) > self.max_new_tokens for prompt, answer in pairs]
        prompts, dropped = self._with_shots([prompt[-self.room :] for prompt, _ in pairs])
        answers = [answer[: self.max_new_tokens] for _, answer in pairs]
        return replace(
            encode_pairs(examples, prompts, answers, cut, self.is_decoder),
            answer_formats=answer_formats(examples["group"], examples["label"], has_lines=self.is_decoder),
            dropped_shots=dropped,
        )

    def render_shot(self, row: dict[str, Any]) -> str:
        """Return a conversation with its answer as a few-shot example."""
        prompt, answer = self._pair(row["messages"], row["label"])
        if not self.is_decoder:
            return "\n".join(self.tokenizer.batch_decode([prompt, answer], skip_special_tokens=True))
        has_bos = prompt[0] == self.tokenizer.bos_token_id  # the question has one too
        return str(self.tokenizer.decode([*prompt[has_bos:], *answer])).strip()

    def encode_training(self, examples: Dataset, seed: int) -> Encoded:
        """Encode the examples; with `task.packing`, packed whole into blocks of the longest possible example."""
        encoded = self.encode(examples)
        if not self.task.packing:
            return encoded
        blocks, lengths = pack_examples(encoded.inputs, self.room + self.max_new_tokens, self.tokenizer.eos_token_id)
        return replace(encoded, inputs=blocks, lengths=lengths)

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        pad = super().collator()
        return lambda examples: stack_blocks(examples) if "position_ids" in examples[0] else pad(examples)

    def check_answers(self, answers: Predictions, has_ended: Sequence[bool], encoded: Encoded) -> Predictions:
        """Return the answers with `follows_format`: 1 where one is complete and has the format of its references.

        It is also appended to the scores, after nats and tokens.
        """
        each = zip(answers.predictions, has_ended, encoded.answer_formats, strict=True)
        follows_format = np.array([ended and expected.matches(text) for text, ended, expected in each], dtype=np.int64)
        rows = zip(answers.scores, follows_format, strict=True)
        scores = [np.append(row, follows) if len(row) else row for row, follows in rows]
        return replace(answers, scores=scores, follows_format=follows_format)

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        is_packed = "position_ids" in encoded.inputs.column_names
        blocks = {"blocks": len(encoded.lengths)} if is_packed else {}
        formats = dict(Counter(each.name for each in encoded.answer_formats))
        return super().label_counts(encoded) | blocks | {"forms": formats}

    def _pair(self, turns: list[Turn], label: str | None) -> tuple[list[int], list[int]]:
        """Return the tokens of the prompt and those of the answer, which ends the text at once where it is missing."""
        end = self.tokenizer.eos_token_id
        if self.is_decoder and label is None:
            return encode_prompt(self.tokenizer, turns), [end]
        if self.is_decoder:
            prompt, answer = encode_answered(self.tokenizer, [*turns, {"role": "assistant", "content": str(label)}])
            return prompt, answer if end in answer else [*answer, end]
        has_answers = any(turn["role"] == "assistant" for turn in turns)
        text = "\n".join(f"{turn['role']}: {turn['content']}" if has_answers else turn["content"] for turn in turns)
        prompt = list(self.tokenizer(text, verbose=False)["input_ids"])
        return prompt, list(self.tokenizer(text_target=label or "", verbose=False)["input_ids"])
