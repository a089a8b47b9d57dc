"""Questions with their passages and answers in the nested format of SQuAD's files, and their answers' positions."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftkit.config import UserError, refusal
from peftkit.config.console import assume
from peftkit.data.cells import text_of

HINT = 'write answers as SQuAD does: {"text": ["a word"], "answer_start": [17]}'
MAX_LISTED = 10  # questions


def squad_rows(path: Path, text: str) -> list[dict[str, Any]] | None:
    """Return id, title, context, question and answers of a file {"data": [...]} or a list; None for other JSON.

    Articles have paragraphs of questions, or are rows themselves. A question that `is_impossible` has no answer,
    whatever its answers are. Without "answers" its answers are hidden, as in a test file. Ids are left out where a
    question has none.

    Raises:
        UserError: an article, a paragraph or a question lacks one of its keys.
    """
    try:
        content = json.loads(text)
    except ValueError:  # one object per line
        return None
    articles = content.get("data") if isinstance(content, dict) else content
    if not isinstance(articles, list) or not articles or not all(isinstance(article, dict) for article in articles):
        return None
    if not any("paragraphs" in article for article in articles):
        return articles
    rows = [*_nested_rows(path, articles)]
    if any(row["id"] is None for row in rows):
        assume(f"{path}: some questions have no id; their numbers in the file are their ids")
        rows = [{name: value for name, value in row.items() if name != "id"} for row in rows]
    return rows


def _nested_rows(path: Path, articles: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, article in enumerate(articles):
        for part, paragraph in enumerate(_list(path, article, "paragraphs", f"data[{number}]")):
            place = f"data[{number}].paragraphs[{part}]"
            for index, entry in enumerate(_list(path, paragraph, "qas", place)):
                if "context" not in paragraph or not isinstance(entry, dict) or "question" not in entry:
                    raise UserError(f"{path}: {place} lacks a context, or its qas[{index}] a question; add it")
                yield {
                    "id": None if entry.get("id") is None else str(entry["id"]),
                    "title": article.get("title"),
                    "context": paragraph["context"],
                    "question": entry["question"],
                    "answers": _as_columns(entry.get("answers")),
                    "is_impossible": entry.get("is_impossible"),
                }


def _list(path: Path, parent: Any, name: str, place: str) -> list[Any]:
    if not isinstance(parent, dict) or not isinstance(parent.get(name), list):
        raise UserError(f"{path}: {place} has no list {name}, as SQuAD's files have; add it")
    return list(parent[name])


def _as_columns(answers: Any) -> Any:
    """Return a list of answers {text, answer_start} as {text: [...], answer_start: [...]}; anything else unchanged."""
    if not isinstance(answers, (list, tuple)):
        return answers
    if all(isinstance(answer, str) for answer in answers):
        return {"text": list(answers), "answer_start": [None] * len(answers)}
    if not all(isinstance(answer, Mapping) and "text" in answer for answer in answers):
        return answers
    return {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")}


class AnswerParser:
    """Parses the answers to the questions of a split, and counts those whose positions it has to search."""

    def __init__(self, split: str, column: str, allows_none: bool) -> None:
        self.split, self.column, self.allows_none = split, column, allows_none
        self.searched = self.impossible = 0
        self.ambiguous: list[str] = []

    def parse(self, cell: Any, passage: str, question: str, is_impossible: bool | None) -> dict[str, list] | None:
        """Return {text, answer_start}, both empty for no answer; None where the answer is hidden.

        Args:
            cell: the same, with single values or lists, a list of {text, answer_start}, or texts of the passage.
            question: its id, for messages.
            is_impossible: None where it is unknown.

        Raises:
            UserError: the cell has another form, an answer is not where its start is or nowhere in the passage, or
                there is none.
        """
        if cell is None:
            return None
        pairs = [(text, start) for text, start in self._pairs(cell, question) if text.strip()]
        if is_impossible and pairs:
            self.impossible += 1
            pairs = []
        if not pairs and is_impossible is False:
            raise UserError(
                f"question {question} of {self.split} has is_impossible=false and no answer; add one, or set it to true"
            )
        if not pairs and not self.allows_none:
            wrong = f"question {question} of {self.split} has no answer, and task.no_answer=false"
            raise UserError(refusal(wrong, "task.no_answer=true", verb="set"))
        starts = [self._start(text, start, passage, question) for text, start in pairs]
        return {"text": [text for text, _ in pairs], "answer_start": starts}

    def log_counts(self) -> None:
        """State how many answers were searched, which of them occur several times, and how many were left out."""
        if self.searched:
            more = f" and {len(self.ambiguous) - MAX_LISTED} more" if len(self.ambiguous) > MAX_LISTED else ""
            listed = ", ".join(self.ambiguous[:MAX_LISTED]) + more
            ambiguous = f"; several times, the first of which is used: question {listed}" if self.ambiguous else ""
            assume(f"{self.split}: {self.searched} answers without answer_start were found by search{ambiguous}")
        if self.impossible:
            assume(f"{self.split}: the answers to {self.impossible} questions with is_impossible=true are left out")

    def _pairs(self, cell: Any, question: str) -> list[tuple[str, Any]]:
        """Return the text and the start of each answer, None where the start is unknown."""
        label = {"text": cell} if isinstance(cell, str) else _as_columns(cell)
        texts: Any = label.get("text") if isinstance(label, Mapping) else None
        texts = [texts] if isinstance(texts, str) else texts
        starts: Any = label.get("answer_start") if isinstance(label, Mapping) else None
        starts = [starts] if isinstance(starts, (int, float, str)) else starts or []
        if not all(isinstance(each, list | tuple) for each in (texts, starts)) or not all(
            isinstance(text, str) for text in texts
        ):
            raise UserError(f"column {self.column} of {self.split} has {cell!r:.60} (question {question}); {HINT}")
        if starts and len(starts) != len(texts):
            raise UserError(
                f"question {question} of {self.split} has {len(texts)} answers and {len(starts)} starts; "
                "write one start for each answer"
            )
        return list(zip(texts, starts or [None] * len(texts), strict=True))

    def _start(self, text: str, start: Any, passage: str, question: str) -> int:
        """Return the first character of an answer in its passage."""
        known = self._number(start, question)
        if known is not None:
            if passage[known : known + len(text)] != text:
                raise UserError(
                    f"the answer {text!r:.60} of {self.split} is not at character {known} of its passage "
                    f"(question {question}); count answer_start in characters from 0, as SQuAD does"
                )
            return known
        whole_words = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", passage)]
        found = whole_words or [match.start() for match in re.finditer(re.escape(text), passage)]
        if not found:
            raise UserError(
                f"the answer {text!r:.60} of {self.split} is not in its passage (question {question}); "
                "copy it from there"
            )
        self.searched += 1
        self.ambiguous += [question] if len(found) > 1 else []
        return found[0]

    def _number(self, start: Any, question: str) -> int | None:
        """Return a start as an integer, None where it is unknown: missing, not a number, or negative."""
        try:
            number = float("nan" if start in (None, "") else start)
        except (TypeError, ValueError):
            number = 0.5
        if math.isnan(number) or number < 0:
            return None
        if not number.is_integer():
            raise UserError(
                f"answer_start {start!r:.60} of {self.split} is not a whole number (question {question}); "
                "count it in characters from 0"
            )
        return int(number)


def answer_texts(cell: Any) -> Any:
    """Return a cell of answers with its texts decoded and checked; an object or a list of objects without text stays.

    Raises:
        CellError: a text is none, or is not UTF-8.
    """
    if isinstance(cell, Mapping):
        return {key: answer_texts(value) if key == "text" else value for key, value in cell.items()}
    if isinstance(cell, list | tuple):
        return [answer_texts(each) for each in cell]
    return None if cell is None else text_of(cell)


def truth(value: Any) -> bool | None:
    """Return a cell of is_impossible as a truth value, None where it is missing."""
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower())
    return None if value is None or value != value else bool(value)
