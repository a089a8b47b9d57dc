"""Formats of answers to an instruction, derived from its references."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

NUMBER = re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)? ?%?\.?")
ITEM = re.compile(r"([-*•]|\(?\d+[.)])\s+\S")
CHOICE_WORDS = 3  # at most, in a label of a closed set


@dataclass(frozen=True)
class AnswerFormat:
    """`name` is choice, number, json, list or text; `choices` are the normalized labels of a closed set."""

    name: str
    choices: frozenset[str] = frozenset()

    def matches(self, text: str) -> bool:
        """Return whether a text has this format; an empty text has none."""
        if self.name == "choice":
            return _plain(text) in self.choices
        if self.name == "number":
            return NUMBER.fullmatch(text.strip()) is not None
        if self.name == "json":
            return _is_json(text)
        if self.name == "list":
            return _is_list(text)
        return bool(text.strip())


def answer_format_of(references: Sequence[str], has_lines: bool = True) -> AnswerFormat:
    """Return the first of these formats that all references of an instruction have.

    number: a number only (1,200.5, -3, 40 %). json: an object or an array. list: two lines or more, each starting with
    -, *, • or a number; skipped with has_lines=False, for models whose vocabulary has no line break. choice: a small
    closed set, that is three references or more, of at most three words, at most half of which differ (ignoring case
    and punctuation). text: any text that is not empty.
    """
    if all(NUMBER.fullmatch(text.strip()) for text in references):
        return AnswerFormat("number")
    if all(_is_json(text) for text in references):
        return AnswerFormat("json")
    if has_lines and all(_is_list(text) for text in references):
        return AnswerFormat("list")
    choices = frozenset(map(_plain, references))
    is_short = all(text and len(text.split()) <= CHOICE_WORDS for text in choices)
    if len(references) > 2 and is_short and 2 * len(choices) <= len(references):
        return AnswerFormat("choice", choices)
    return AnswerFormat("text")


def answer_formats(groups: Sequence[int], labels: Sequence[str | None], has_lines: bool = True) -> list[AnswerFormat]:
    """Return the format of each example, which is that of all labels of its group, i.e. its instruction."""
    references: dict[int, list[str]] = {}
    for group, label in zip(groups, labels, strict=True):
        references.setdefault(group, []).extend([] if label is None else [label])
    formats = {
        group: answer_format_of(texts, has_lines) if texts else AnswerFormat("text")
        for group, texts in references.items()
    }
    return [formats[group] for group in groups]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(string.punctuation + " ")


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (dict, list))
    except (ValueError, RecursionError):  # RecursionError: too deeply nested brackets
        return False


def _is_list(text: str) -> bool:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return len(lines) > 1 and all(ITEM.match(line) for line in lines)
