"""Instruction tuning: chat turns as the prompt, the last answer as the target, and the expected format of answers."""

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.data.batches import pack_examples
from peftkit.data.conversations import ConversationReader, Turn, encode_prompt, encode_with_answer, ensure_chat_template
from peftkit.data.formats.base import Encoded, Predictions
from peftkit.data.formats.text_generation import TextGenerationFormat

NUMBER = re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)? ?%?\.?")
LIST_ITEM = re.compile(r"([-*•]|\(?\d+[.)])\s+\S")
MAX_CHOICE_WORDS = 3  # of a label of a closed set


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
        return self.task.answer_length

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize the last `task.max_length` tokens of prompts and `task.max_target_length` of answers.

        `positions` are the mask of scored tokens, and the prompt (tokens,).
        """
        pairs = [self._pair(turns, label) for turns, label in zip(examples["messages"], examples["label"], strict=True)]
        return self.encode_pairs(
            examples,
            [prompt[-self.prompt_limit :] for prompt, _ in pairs],
            [answer for _, answer in pairs],
            [len(prompt) > self.prompt_limit for prompt, _ in pairs],
            answer_formats=answer_formats(examples["group"], examples["label"], has_lines=self.is_decoder),
        )

    @property
    def takes_turns(self) -> bool:
        """Whether a prompt may have earlier turns: a T5 learns them from conversations only."""
        return self.is_decoder or self.task.label is None

    def encode_turns(self, turns: list[Turn]) -> list[int]:
        """Return the tokens of a prompt of these turns, which an answer follows."""
        return self._pair(turns, None)[0]

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
        blocks, lengths = pack_examples(encoded.inputs, self.prompt_limit + self.task.target_length, self.end_id)
        return replace(encoded, inputs=blocks, lengths=lengths)

    def check_answers(self, predictions: Predictions, has_ended: Sequence[bool], encoded: Encoded) -> Predictions:
        """Return the predictions with `follows_format`: 1 where one is complete and in the format of its references.

        It is also appended to the scores, after nats and tokens.
        """
        each = zip(predictions.predictions, has_ended, encoded.answer_formats, strict=True)
        follows_format = np.array([ended and expected.matches(text) for text, ended, expected in each], dtype=np.int64)
        rows = zip(predictions.scores, follows_format, strict=True)
        scores = [np.append(row, follows) if len(row) else row for row, follows in rows]
        return replace(predictions, scores=scores, follows_format=follows_format)

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        blocks = {"blocks": len(encoded.lengths)} if "position_ids" in encoded.inputs.column_names else {}
        formats = Counter(each.name for each in encoded.answer_formats)
        return super().label_counts(encoded) | blocks | {"forms": dict(formats)}

    def _pair(self, turns: list[Turn], label: str | None) -> tuple[list[int], list[int]]:
        """Return the tokens of the prompt and those of the answer: only the end-of-text token if it is missing."""
        if self.is_decoder and label is None:
            return encode_prompt(self.tokenizer, turns), [self.end_id]
        if self.is_decoder:
            prompt, answer = encode_with_answer(self.tokenizer, [*turns, {"role": "assistant", "content": str(label)}])
            return prompt, answer if self.end_id in answer else [*answer, self.end_id]
        has_answers = any(turn["role"] == "assistant" for turn in turns)
        text = "\n".join(f"{turn['role']}: {turn['content']}" if has_answers else turn["content"] for turn in turns)
        return list(self.tokenizer(text, verbose=False)["input_ids"]), self._answer_ids([label or ""])[0]


@dataclass(frozen=True)
class AnswerFormat:
    """`name` is choice, number, json, list or text; `choices` are the normalized labels of a closed set."""

    name: str
    choices: frozenset[str] = frozenset()

    def matches(self, text: str) -> bool:
        """Return whether a text has this format; an empty text has none."""
        return _plain(text) in self.choices if self.name == "choice" else bool(CHECKS[self.name](text))


def answer_format_of(references: Sequence[str], has_lines: bool = True) -> AnswerFormat:
    """Return the first of these formats that all references of an instruction have.

    number: a number only (1,200.5, -3, 40 %). json: an object or an array. list: two lines or more, each starting with
    -, *, • or a number; skipped with has_lines=False, for models whose vocabulary has no line break. choice: a small
    closed set, that is three references or more, of at most three words, at most half of which differ (ignoring case
    and punctuation). text: any text that is not empty.
    """
    for name in ("number", "json", "list") if has_lines else ("number", "json"):
        if references and all(map(CHECKS[name], references)):
            return AnswerFormat(name)
    choices = frozenset(map(_plain, references))
    is_short = all(text and len(text.split()) <= MAX_CHOICE_WORDS for text in choices)
    is_closed = len(references) > 2 and is_short and 2 * len(choices) <= len(references)
    return AnswerFormat("choice", choices) if is_closed else AnswerFormat("text")


def answer_formats(groups: Sequence[int], labels: Sequence[str | None], has_lines: bool) -> list[AnswerFormat]:
    """Return the format of each example, which is that of all labels of its group, i.e. its instruction."""
    references: dict[int, list[str]] = {}
    for group, label in zip(groups, labels, strict=True):
        references.setdefault(group, []).extend([] if label is None else [label])
    formats = {group: answer_format_of(texts, has_lines) for group, texts in references.items()}
    return [formats[group] for group in groups]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(string.punctuation + " ")


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text.strip()) is not None


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (dict, list))
    except (ValueError, RecursionError):  # RecursionError: too deeply nested brackets
        return False


def _is_list(text: str) -> bool:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return len(lines) > 1 and all(LIST_ITEM.match(line) for line in lines)


CHECKS: dict[str, Callable[[str], object]] = {
    "number": _is_number, "json": _is_json, "list": _is_list, "text": str.strip,
}  # fmt: skip
