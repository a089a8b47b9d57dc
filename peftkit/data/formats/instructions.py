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
    """Instruction tuning: the answer alone is learned (Ouyang et al. 2022, section 3.5; Wang et al. 2023, section 4).

    A decoder reads the turns in the tokenizer's chat template, and its answer ends with the end of text even where the
    template would not say so. An encoder-decoder reads what the turns say, with a line for each: of a conversation that
    goes on, who said it too.
    """

    reader = ConversationReader
    stop_text = ""  # an answer may contain blank lines, and ends with the end of text

    def __post_init__(self) -> None:
        if self.is_decoder:
            ensure_chat_template(self.tokenizer)

    @property
    def max_new_tokens(self) -> int:
        return self.task.max_target_length or ANSWER_TOKENS

    def encode(self, rows: Dataset) -> Encoded:
        """Tokenise turns, cut from their start to `task.max_length`, and answers, cut to `task.max_target_length`.

        `positions` are the tokens that count, and the prompt (tokens,) that is to be answered.
        """
        pairs = [self._pair(turns, label) for turns, label in zip(rows["messages"], rows["label"], strict=True)]
        cut = [len(read) > self.room or len(written) > self.max_new_tokens for read, written in pairs]
        read, left_out = self._with_shots([read[-self.room :] for read, _ in pairs])
        found = encode_pairs(rows, read, [written[: self.max_new_tokens] for _, written in pairs], cut, self.is_decoder)
        return replace(
            found,
            answer_formats=answer_formats(rows["group"], rows["label"], has_lines=self.is_decoder),
            dropped_shots=left_out,
        )

    def render_shot(self, row: dict[str, Any]) -> str:
        """Return a conversation as an example, answered: turns before those that are asked."""
        read, written = self._pair(row["messages"], row["label"])
        if not self.is_decoder:
            return "\n".join(self.tokenizer.batch_decode([read, written], skip_special_tokens=True))
        begins = read[0] == self.tokenizer.bos_token_id  # which the question has itself
        return str(self.tokenizer.decode([*read[begins:], *written])).strip()

    def encode_training(self, examples: Dataset, seed: int) -> Encoded:
        """Encode the examples; with `task.packing`, packed whole into blocks of the longest possible example."""
        found = self.encode(examples)
        if not self.task.packing:
            return found
        blocks, lengths = pack_examples(found.inputs, self.room + self.max_new_tokens, self.tokenizer.eos_token_id)
        return replace(found, inputs=blocks, lengths=lengths)

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        pad = super().collator()
        return lambda rows: stack_blocks(rows) if "position_ids" in rows[0] else pad(rows)

    def check_answers(self, answers: Predictions, has_ended: Sequence[bool], encoded: Encoded) -> Predictions:
        """Return whether each answer ended by itself and has the format of all references of its instruction.

        The scores are then nats, tokens and 0 or 1.
        """
        each = zip(answers.predictions, has_ended, encoded.answer_formats, strict=True)
        follows_format = np.array([ended and form.matches(text) for text, ended, form in each], dtype=np.int64)
        scores = [
            np.append(row, held) if len(row) else row for row, held in zip(answers.scores, follows_format, strict=True)
        ]
        return replace(answers, scores=scores, follows_format=follows_format)

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        is_packed = "position_ids" in encoded.inputs.column_names
        forms = dict(Counter(form.name for form in encoded.answer_formats))
        return (
            super().label_counts(encoded) | ({"blocks": len(encoded.lengths)} if is_packed else {}) | {"forms": forms}
        )

    def _pair(self, turns: list[Turn], label: str | None) -> tuple[list[int], list[int]]:
        """Return the tokens of what is asked, and those of the answer, none where there is none yet."""
        end = self.tokenizer.eos_token_id
        if self.is_decoder and label is None:
            return encode_prompt(self.tokenizer, turns), [end]
        if self.is_decoder:
            read, written = encode_answered(self.tokenizer, [*turns, {"role": "assistant", "content": str(label)}])
            return read, written if end in written else [*written, end]
        goes_on = any(turn["role"] == "assistant" for turn in turns)
        text = "\n".join(f"{turn['role']}: {turn['content']}" if goes_on else turn["content"] for turn in turns)
        read = self.tokenizer(text, verbose=False)["input_ids"]
        return read, list(self.tokenizer(text_target=label or "", verbose=False)["input_ids"])
