"""Turn conversations into what a model reads and the answer that it learns, and what it writes into answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.config import UserError
from peftkit.data.answer_format import forms_of
from peftkit.data.chat import Turn, asked, asked_and_answered, teach_template
from peftkit.data.collate import stacked
from peftkit.data.formats.base import Answers, Encoded
from peftkit.data.formats.text_generation import ANSWER_TOKENS, Texts, encoded_pairs
from peftkit.data.packing import packed


@dataclass(frozen=True)
class Instructions(Texts):
    """Instruction tuning: the answer alone is learned (Ouyang et al. 2022, section 3.5; Wang et al. 2023, section 4).

    A decoder reads the turns in the tokenizer's chat template, and its answer ends with the end of text even where the
    template would not say so. An encoder-decoder reads what the turns say, with a line for each: of a conversation that
    goes on, who said it too.
    """

    stops = ""  # an answer may have lines between, and says itself where it ends

    def __post_init__(self) -> None:
        if self.is_decoder:
            teach_template(self.tokenizer)

    @property
    def writes(self) -> int:
        return self.task.max_target_length or ANSWER_TOKENS

    @property
    def room(self) -> int:
        """Return how many tokens of the turns are read; what a decoder writes takes places too."""
        return min(self.task.max_length, self.tokenizer.model_max_length - (self.writes if self.is_decoder else 0))

    def encode(self, rows: Dataset) -> Encoded:
        """Tokenise turns, cut from their start to `task.max_length`, and answers, cut to `task.max_target_length`.

        `places` are the tokens that count, and the prompt (tokens,) that is to be answered.
        """
        if self.room < 1:
            longest = self.tokenizer.model_max_length
            raise UserError(
                f"the model reads {longest} tokens, and task.max_target_length={self.writes} leaves none to ask in; "
                f"say task.max_target_length={longest // 2}"
            )
        pairs = [self._pair(turns, label) for turns, label in zip(rows["messages"], rows["label"], strict=True)]
        cut = [len(read) > self.room or len(written) > self.writes for read, written in pairs]
        read, left_out = self._with_shots([read[-self.room :] for read, _ in pairs])
        found = encoded_pairs(rows, read, [written[: self.writes] for _, written in pairs], cut, self.is_decoder)
        return replace(
            found, forms=forms_of(rows["group"], rows["label"], has_lines=self.is_decoder), left_out=left_out
        )

    def shown(self, row: dict[str, Any]) -> str:
        """Return a conversation as an example, answered: turns before those that are asked."""
        read, written = self._pair(row["messages"], row["label"])
        if not self.is_decoder:
            return "\n".join(self.tokenizer.batch_decode([read, written], skip_special_tokens=True))
        begins = read[0] == self.tokenizer.bos_token_id  # which the question has itself
        return str(self.tokenizer.decode([*read[begins:], *written])).strip()

    def blocks(self, rows: Dataset) -> Encoded:
        """Encode rows to train on and pack them, whole, into blocks of the longest that one may be."""
        found = self.encode(rows)
        blocks, lengths = packed(found.rows, self.room + self.writes, self.tokenizer.eos_token_id)
        return replace(found, rows=blocks, lengths=lengths)

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        pad = super().collator()
        return lambda rows: stacked(rows) if "position_ids" in rows[0] else pad(rows)

    def judge(self, answers: Answers, has_ended: Sequence[bool], encoded: Encoded) -> Answers:
        """Say of each answer whether it has its form: it ended by itself, and is as all references of its instruction.

        The scores are then nats, tokens and 0 or 1.
        """
        each = zip(answers.predictions, has_ended, encoded.forms, strict=True)
        in_form = np.array([ended and form.holds(text) for text, ended, form in each], dtype=np.int64)
        scores = [np.append(row, held) if len(row) else row for row, held in zip(answers.scores, in_form, strict=True)]
        return replace(answers, scores=scores, in_form=in_form)

    def counts(self, encoded: Encoded) -> dict[str, Any]:
        is_packed = "position_ids" in encoded.rows.column_names
        forms = dict(Counter(form.name for form in encoded.forms))
        return super().counts(encoded) | ({"blocks": len(encoded.lengths)} if is_packed else {}) | {"forms": forms}

    def _pair(self, turns: list[Turn], label: str | None) -> tuple[list[int], list[int]]:
        """Return the tokens of what is asked, and those of the answer, none where there is none yet."""
        end = self.tokenizer.eos_token_id
        if self.is_decoder and label is None:
            return asked(self.tokenizer, turns), [end]
        if self.is_decoder:
            read, written = asked_and_answered(self.tokenizer, [*turns, {"role": "assistant", "content": str(label)}])
            return read, written if end in written else [*written, end]
        goes_on = any(turn["role"] == "assistant" for turn in turns)
        text = "\n".join(f"{turn['role']}: {turn['content']}" if goes_on else turn["content"] for turn in turns)
        read = self.tokenizer(text, verbose=False)["input_ids"]
        return read, list(self.tokenizer(text_target=label or "", verbose=False)["input_ids"])
