"""The answer formats of instructions, derived from their references."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

NUMBER = re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)? ?%?\.?")
ITEM = re.compile(r"([-*•]|\(?\d+[.)])\s+\S")
CHOICE_WORDS = 3  # of the longest label of a closed set


@dataclass(frozen=True)
class AnswerFormat:
    """`name` is choice, number, json, list or text; `choices` are those of a closed set, as they are compared."""

    name: str
    choices: frozenset[str] = frozenset()

    def matches(self, text: str) -> bool:
        """Tell whether a text has this form; an empty one has none."""
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
    """Return the form that all references of one instruction have, the first of these that they do.

    number: a number and nothing else (1,200.5, -3, 40 %). json: an object or an array. list: two lines or more, each
    begun by -, *, • or a number; not asked of a model whose vocabulary has no line break (`has_lines`). choice: three
    references or more, of three words at most each, half of them different at most, case and punctuation aside: a
    small closed set. text: anything that is not empty.
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
    """Return the form of each example: that of all labels of its group, which is one instruction."""
    of: dict[int, list[str]] = {}
    for group, label in zip(groups, labels, strict=True):
        of.setdefault(group, []).extend([] if label is None else [label])
    found = {
        group: answer_format_of(texts, has_lines) if texts else AnswerFormat("text") for group, texts in of.items()
    }
    return [found[group] for group in groups]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(string.punctuation + " ")


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (dict, list))
    except (ValueError, RecursionError):  # the latter of brackets in brackets without end
        return False


def _is_list(text: str) -> bool:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return len(lines) > 1 and all(ITEM.match(line) for line in lines)
