"""Names of labels: as texts, in order, and their spellings."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from peftkit.config import Refusal, TaskConfig, UserError
from peftkit.config.console import log
from peftkit.config.label_names import label_name
from peftkit.config.quoting import typed
from peftkit.config.suggestions import listed
from peftkit.data.cells import CellError, describe, is_missing, text_of
from peftkit.data.tables import is_list_text

MULTILABEL = "task=multilabel"
SEPARATORS = "|;,"  # of several labels in one cell, that are suggested
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def label_text(label: Any) -> str | None:
    """Return the name of a label, None where it is missing."""
    if isinstance(label, list | tuple) or (isinstance(label, str) and is_list_text(label.strip())):
        found = "a list written as text" if isinstance(label, str) else describe(label)
        raise CellError(
            f"{found}, i.e. several labels for one text (multi-label classification); write one label", fix=MULTILABEL
        )
    if isinstance(label, bool | float | Decimal) and not is_missing(label):
        label = label_name(label)
    return label_name(text_of(label)) or None


def check_other_labels(names: set[str], more: set[str], splits: tuple[str, str], place: str) -> None:
    """Refuse labels that the second split has `more` than the first, unless they are words of their own.

    Raises:
        UserError: they are numbers, as 0 to 2 and 1 to 3 are two numberings, or spellings of the first split's labels.
    """
    first, split = splits
    found = {label: near[0] for label in sort_names(more) if (near := spellings(label, names))}
    if found:
        wrong, right = ", ".join(found), ", ".join(dict.fromkeys(found.values()))
        how = " or ".join(dict.fromkeys(_how(*pair) for pair in found.items()))
        pairs = ", ".join(f"{right} for {wrong}" for wrong, right in found.items())
        raise UserError(
            f"{place}: labels {wrong} of {split} never occur in {first}, which has {right}: they differ by {how} "
            f"alone; write {pairs} in the data"
        )
    if all(NUMBER.fullmatch(name) for name in names):
        both = f"task.labels=[{join_labels(names | more, ',')}]"
        message = (
            f"{place}: label {join_labels(more)} of {split} is not among {first}'s {join_labels(names)}; "
            f"use one numbering, or set {both}"
        )
        raise UserError(Refusal(message, both))


def joined_labels(names: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return the labels that join others, such as bug|urgent where bug and urgent are labels too, and the separator."""
    for separator in SEPARATORS:
        parts = {name: {part.strip() for part in name.split(separator)} for name in names if separator in name}
        if joined := [name for name, each in parts.items() if len(each) > 1 and each <= {*names}]:
            return separator, joined
    return None


def log_spellings(names: set[str]) -> None:
    """State which labels of a split differ by spelling alone."""
    first: dict[str, str] = {}
    for name in sort_names(names):
        if (other := first.setdefault(_folded(name) or name, name)) != name:
            log(f"!! the labels {other} and {name} differ by {_how(other, name)} alone; they are two classes")


def spellings(label: str, names: Iterable[str]) -> list[str]:
    """Return the names that differ from a label by case, spaces, hyphens, underscores or Unicode form alone."""
    folded = _folded(label)
    return [name for name in names if name != label and folded and _folded(name) == folded]


def _folded(label: str) -> str:
    text = _visible(unicodedata.normalize("NFKC", label).casefold())
    return repr(float(text)) if NUMBER.fullmatch(text) else re.sub(r"[\s_-]+", "", text)


def _visible(label: str) -> str:
    """Return a text without characters that only format it, such as zero-width spaces and byte order marks."""
    return "".join(character for character in label if unicodedata.category(character) != "Cf")


def _how(label: str, name: str) -> str:
    """Return by what two spellings of a label differ."""
    if label.casefold() == name.casefold():
        return "case"
    if "".join(label.split()) == "".join(name.split()):
        return "spaces"
    if _visible(label) == _visible(name):
        return "invisible characters"
    if NUMBER.fullmatch(label) and NUMBER.fullmatch(name):
        return "zeros"
    is_form = unicodedata.normalize("NFKC", label) == unicodedata.normalize("NFKC", name)
    return "Unicode form" if is_form else "case, spaces, hyphens or underscores"


def difference(label: str, names: Sequence[str]) -> str:
    near = spellings(label, names)
    return f" (it differs from {near[0]} by {_how(label, near[0])} alone)" if near else ""


def join_labels(names: Sequence[str] | set[str], comma: str = ", ") -> str:
    """Join the names of labels; those of a set are sorted."""
    return comma.join(sort_names(names) if isinstance(names, set) else names)


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort numbers by value, so that 2 comes before 10, and before words."""
    return sorted(names, key=lambda name: (0, float(name), name) if NUMBER.fullmatch(name) else (1, 0.0, name))


def ordered_number(task: TaskConfig, numbers: Mapping[str, float], label: str) -> float:
    """Return the number of a label in `task.label_order`, from 1."""
    if label not in numbers:
        message = f"{task.dataset}: label {label} is not among {listed(numbers)}, the labels of task.label_order"
        fix = typed("task.label_order", [*numbers, label])
        raise UserError(Refusal(f"{message}; correct it, or set {fix}", fix))
    return numbers[label]


def number_of(label: str) -> float:
    """Return the number that a label is.

    Raises:
        UserError: it is none.
    """
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        message = (
            f"label {label} is not a number; leave it empty where it is hidden, list all labels in their order in "
            "task.label_order, or use task=classification"
        )
        raise UserError(Refusal(message, "task=classification"))
    return value
