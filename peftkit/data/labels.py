"""Turn what a label column says into class ids, numbers, tags, answers or texts: whatever the task's kind asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, List, Value

from peftkit.config import TaskConfig, UserError
from peftkit.data.files import parse_list

NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
NAMED = ("classification", "token_classification")


def label_names(task: TaskConfig, tables: Mapping[str, Dataset]) -> list[str] | None:
    """Return the names of the classes or tags: the task's, a ClassLabel's, or what is found; None where there are none.

    Raises:
        UserError: no table has the label column, it names too many classes, or splits number them otherwise.
    """
    if task.kind not in NAMED:
        return None
    if task.labels is not None:
        return [str(name) for name in task.labels]
    labelled = {name: table for name, table in tables.items() if task.label in table.column_names}
    for table in tables.values() if not labelled else ():
        require_columns(task, table, [str(task.label)])
    for table in labelled.values():
        if (feature := _classes_of(task, table)) is not None:
            return list(feature.names)
    found: set[str] = set()
    first = next(iter(labelled), "")
    for split, table in labelled.items():
        more = set(_all_said(task, table)) - found
        if len(found) + len(more) > 1000:
            raise UserError(f"column {task.label} has over 1000 different values; try task=regression, or task.label=")
        if found and more and all(NUMBER.fullmatch(text) for text in found):
            # 0 to 2 against 1 to 3 is another numbering, not a rare class
            raise UserError(
                f"label {join_names(more)} of {split} is none of {first}'s {join_names(found)}; number both alike, "
                f"or name all classes: task.labels=[{join_names(found | more, ',')}]"
            )
        found |= more
    return _sorted(found)


def raw_labels(task: TaskConfig, table: Dataset) -> list[Any]:
    """Return what the label column says in each row, None where a label is missing or hidden."""
    if task.label is None or task.label not in table.column_names:
        return [None] * len(table)
    column = list(table[task.label])
    if task.kind == "question_answering":
        return column
    if task.kind == "token_classification":
        return [_tags_said(tags, hides=_classes_of(task, table) is not None) for tags in column]
    if task.kind in ("causal_lm", "seq2seq"):
        return [None if label is None or not str(label).strip() else str(label) for label in column]
    hides = task.suite == "glue" or _classes_of(task, table) is not None
    labels = [_text(label) for label in column]
    return [None if hides and label == "-1" else label for label in labels]


def label_parser(
    task: TaskConfig, table: Dataset, names: list[str] | None, split: str
) -> Callable[[Any, Sequence[Any]], Any]:
    """Return what reads one row's label, given what it says and the row's texts.

    Raises (when it is called):
        UserError: the label is none of the task's, no number, or does not fit the row's text.
    """
    if task.kind == "regression":
        return lambda label, texts: _number(label)
    if task.kind == "question_answering":
        return lambda label, texts: _answer(task, label, texts[1], split)
    if names is None:
        return lambda label, texts: label
    classes = _classes(task, table, names)

    def number(label: str) -> int:
        if label not in classes:
            raise UserError(
                f"label {label} of {split} is none of {join_names(names)}; mend it, or name all in task.labels=[...]"
            )
        return classes[label]

    if task.kind == "classification":
        return lambda label, texts: number(label)

    def numbers(tags: list[str], texts: Sequence[Any]) -> list[int]:
        if len(tags) != len(texts[0]):
            raise UserError(
                f"a row of {split} has {len(texts[0])} words and {len(tags)} tags: {' '.join(texts[0])[:60]}; "
                "write one tag a word"
            )
        return [number(tag) for tag in tags]

    return numbers


def label_feature(task: TaskConfig) -> Any:
    """Return the type of the labels, also where all are hidden."""
    if task.kind == "token_classification":
        return List(Value("int64"))
    if task.kind == "question_answering":
        return {"text": List(Value("string")), "answer_start": List(Value("int64"))}
    if task.kind in ("causal_lm", "seq2seq"):
        return Value("string")
    return Value("float64" if task.kind == "regression" else "int64")


def require_columns(task: TaskConfig, table: Dataset, columns: list[str]) -> None:
    """Raise UserError where a column is missing."""
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise UserError(
            f"task={task.name} reads the columns {', '.join(missing)}, but there are {', '.join(table.column_names)}; "
            "set task.text and task.label"
        )


def join_names(names: Sequence[str] | set[str], comma: str = ", ") -> str:
    """Return names in one line, those of a set in order."""
    return comma.join(_sorted(names) if isinstance(names, set) else names)


def _classes_of(task: TaskConfig, table: Dataset) -> ClassLabel | None:
    """Return the ClassLabel of the label column, or of the tags in it."""
    feature = table.features.get(task.label)
    feature = getattr(feature, "feature", feature)
    return feature if isinstance(feature, ClassLabel) else None


def _all_said(task: TaskConfig, table: Dataset) -> Iterable[str]:
    labels = [label for label in raw_labels(task, table) if label is not None]
    return labels if task.kind == "classification" else [tag for tags in labels for tag in tags]


def _classes(task: TaskConfig, table: Dataset, names: list[str]) -> dict[str, int]:
    """Return the class id of all that the label column may say: a name, or a number that is an id for certain."""
    feature = _classes_of(task, table)
    if feature is not None:
        if set(feature.names) <= set(names):
            return {str(number): names.index(name) for number, name in enumerate(feature.names)}
        if len(feature.names) != len(names) or set(feature.names) & set(names):
            raise UserError(
                f"column {task.label} has the classes {join_names(feature.names)}, task.labels has {join_names(names)}; "
                "name all of them, or rename every one in their order"
            )
        return {str(number): number for number in range(len(names))}
    classes = {str(_text(name)): number for number, name in enumerate(names)}
    if task.labels is not None and not any(NUMBER.fullmatch(name) for name in names):
        classes |= {str(number): number for number in range(len(names))}
    return classes


def _tags_said(tags: Any, hides: bool) -> list[str] | None:
    """Return a sentence's tags as text: a list of them, or words in one cell; None where one is missing."""
    found = [_text(tag) for tag in parse_list(tags, may_be_numbers=True)]
    if not found:
        return None
    known = [tag for tag in found if tag is not None and not (hides and tag == "-1")]
    return known if len(known) == len(found) else None


def _text(label: Any) -> str | None:
    """Return a label as text, None where it is missing; 1.0, which pandas makes of 1 beside an empty cell, is 1."""
    if label is None or (isinstance(label, float) and math.isnan(label)):
        return None
    return re.sub(r"^(-?[0-9]+)\.0+$", r"\1", str(label).strip()) or None


def _number(label: str) -> float:
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"label {label} is no number; leave it empty where there is none, or try task=classification")
    return value


def _answer(task: TaskConfig, label: Any, passage: str, split: str) -> dict[str, list]:
    """Return the answers {text, answer_start} to a question; a plain text is looked for in the passage."""
    if isinstance(label, str):
        label = {"text": [label] if label.strip() else []}
    texts = label.get("text") if isinstance(label, Mapping) else None
    if texts is None:
        raise UserError(
            f"column {task.label} of {split} holds {label!r:.60}; "
            'write answers as SQuAD does: {"text": ["a word"], "answer_start": [17]}'
        )
    starts = label.get("answer_start")
    texts = [texts] if isinstance(texts, str) else list(texts)
    if starts is None or starts == []:
        starts = [passage.find(text) for text in texts]
    starts = [starts] if isinstance(starts, int) else list(starts)
    if len(starts) != len(texts):
        raise UserError(f"an answer of {split} has {len(texts)} texts and {len(starts)} starts; write one start a text")
    if not texts and not task.no_answer:
        raise UserError(
            f"a question of {split} has no answer, and task.no_answer=false; say task.no_answer=true, or drop the row"
        )
    for text, start in zip(texts, starts, strict=True):
        if start < 0:
            raise UserError(f"the answer {text!r:.60} of {split} is not in its passage; write it as it stands there")
        if passage[start : start + len(text)] != text:
            raise UserError(
                f"the answer {text!r:.60} of {split} is not at letter {start} of its passage; "
                "count answer_start in letters from 0, as SQuAD does"
            )
    return {"text": texts, "answer_start": starts}


def _sorted(names: Iterable[str]) -> list[str]:
    """Sort numbers in their own order, so that 2 comes before 10, and before words."""
    return sorted(names, key=lambda name: (0, float(name), name) if NUMBER.fullmatch(name) else (1, 0.0, name))
