"""The columns of a table: types, distinct values, the likely text and label, and those that give the label away."""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.config import UserError
from peftkit.config.quoting import typed
from peftkit.data.cells import describe, is_missing
from peftkit.data.labels import NUMBER
from peftkit.pipeline.inspection.sections import Section, Share, shortened

LABEL_NAMES = (
    "label", "labels", "class", "category", "target", "intent", "queue", "topic", "sentiment", "tag", "type", "stars",
    "rating", "score", "y",
)  # fmt: skip
ID_NAME = re.compile(r"(^|[^a-z])(id|idx|uuid|guid|key|number|no)$", re.IGNORECASE)
DATE = re.compile(r"\d{4}-\d\d-\d\d([T ][\d:.]+Z?)?")
MAX_LABELS, MAX_LABEL_WORDS = 1000, 5
MIN_TEXT_WORDS = 2.0  # on average, of a column that may be the text
LEAK = 0.95  # share of labels that a column predicts, from which on it gives them away
LEAK_GAIN = 0.8  # and by which part of the errors of the most frequent label are avoided
BINS = 20  # of numbers with many values


@dataclass(frozen=True)
class Column:
    """A column of a table, and its values without the missing ones."""

    name: str
    kind: str
    values: list[Any]
    distinct: int
    empty: int
    words: float  # mean number of words of its texts, 0 for other types

    @property
    def is_text(self) -> bool:
        return self.kind == "text"

    @property
    def is_constant(self) -> bool:
        return self.distinct == 1 and len(self.values) > 1

    @property
    def is_id(self) -> bool:
        """Whether no value occurs twice, and the values are whole numbers or have no spaces."""
        if self.distinct < len(self.values) or len(self.values) < 2:
            return False
        is_code = self.is_text and self.words == 1 and (ID_NAME.search(self.name) or _has_digits(self.values))
        return self.kind == "whole number" or bool(is_code)


def read_columns(table: Dataset) -> list[Column]:
    """Return the columns of a table."""
    return [_column(name, table[name][:]) for name in table.column_names]


def key_of(value: Any) -> Hashable:
    return value if isinstance(value, Hashable) else repr(value)


def _column(name: str, cells: list[Any]) -> Column:
    values = [cell for cell in cells if not is_missing(cell) and cell != ""]
    kinds = Counter(_kind(value) for value in values)
    kind = kinds.most_common(1)[0][0] if kinds else "empty"
    for name_of_kind, pattern in (("number", NUMBER), ("date", DATE)):
        if kind == "text" and len(kinds) == 1 and all(pattern.fullmatch(value) for value in values):
            kind = name_of_kind
    words = float(np.mean([len(value.split()) for value in values])) if kind == "text" and len(kinds) == 1 else 0.0
    named = kind if len(kinds) < 2 else f"{kind} and {' and '.join([*kinds][1:3])}"
    return Column(name, named, values, len({key_of(value) for value in values}), len(cells) - len(values), words)


def _kind(value: Any) -> str:
    text = describe(value).removeprefix("a ").removeprefix("an ")
    return "number" if text == "number with a fraction" else text.partition(" with the fields")[0]


def _has_digits(values: Sequence[str]) -> bool:
    return all(any(letter.isdigit() for letter in value) for value in values)


@dataclass(frozen=True)
class Guess:
    """The likely columns of text and label, each with the reason."""

    text: list[str]
    label: str
    reasons: tuple[str, str]


def guess_columns(columns: Sequence[Column], label: str | None, place: str) -> Guess:
    """Guess the column of the text, and that of the label unless there is one of this name.

    Raises:
        UserError: no column is likely.
    """
    texts = sorted((c for c in columns if c.is_text and c.words >= MIN_TEXT_WORDS), key=lambda c: (-c.words, c.name))
    texts = [each for each in texts if each.name != label]
    names = ", ".join(column.name for column in columns)
    if not texts:
        raise UserError(f"{place} has no column of texts among {names}; set task.text=[COLUMN] task.label=COLUMN")
    text = texts[0]
    reason = f"the longest texts, {text.words:.0f} words on average"
    if others := [each.name for each in texts[1:] if each.words > MAX_LABEL_WORDS]:
        reason += f"; texts too: {', '.join(others)}, both by task.text=[{others[0]},{text.name}]"
    if label in [column.name for column in columns]:
        return Guess([text.name], str(label), (reason, "named so"))
    found = [each for each in columns if each is not text and _may_be_label(each)]
    if not found:
        raise UserError(
            f"{place}: no column of {names} has few enough values for a label; set task.label=COLUMN, "
            "task=regression for numbers, or another task for data without labels: python -m peftkit task --help"
        )
    best = min(found, key=lambda each: (_name_rank(each.name), each.distinct, each.name))
    is_named = _name_rank(best.name) < len(LABEL_NAMES)
    because = f"{best.distinct} values" + (", and labels often have this name" if is_named else ", the fewest")
    if rest := [each.name for each in found if each is not best]:
        because += f"; possible too: {', '.join(rest)}"
    return Guess([text.name], best.name, (reason, because))


def _may_be_label(column: Column) -> bool:
    is_short = column.words <= MAX_LABEL_WORDS and (column.is_text or column.kind in _ATOMS)
    return is_short and 2 <= column.distinct <= min(MAX_LABELS, max(2, len(column.values) // 2))


_ATOMS = ("whole number", "number", "true or false")


def _name_rank(name: str) -> int:
    folded = name.casefold()
    whole = [rank for rank, known in enumerate(LABEL_NAMES) if folded == known]
    part = [rank for rank, known in enumerate(LABEL_NAMES[:-1]) if known in re.split(r"[\W_]+", folded)]
    return min(whole or part or [len(LABEL_NAMES)])


def columns_section(
    columns: Sequence[Column],
    table: Dataset,
    text: Sequence[str],
    labels: Sequence[str],
    guess: Guess | None,
    ids: str | None = None,
) -> Section:
    """Return the section of the columns of the training split, with those that are suspicious.

    Args:
        labels: the columns of the labels; one, none, or one for each label.
        ids: the column of the ids, where it is set.
    """
    roles = {**({} if ids is None else {ids: "id"}), **dict.fromkeys(text, "text"), **dict.fromkeys(labels, "label")}
    rows = [
        (
            each.name,
            roles.get(each.name, ""),
            each.kind,
            each.distinct,
            each.empty,
            shortened(str(each.values[0])) if each.values else "",
        )
        for each in columns
    ]
    lines = []
    if guess is not None:
        reasons = zip(("text", "label"), (guess.text[0], guess.label), guess.reasons, strict=True)
        lines = [f"{role}, guessed: {name}, {reason}" for role, name, reason in reasons]
    has_ids = ids is not None or any(each.name in ("id", "idx") for each in columns)
    warnings, notes = _suspicious(columns, table, text, labels, has_ids)
    return Section(
        "Columns", warnings, lines, ("column", "role", "type", "distinct", "empty", "example text"), rows, notes
    )


def _suspicious(
    columns: Sequence[Column], table: Dataset, text: Sequence[str], label_columns: Sequence[str], has_ids: bool
) -> tuple[list[str], list[str]]:
    """Return warnings and notes about constant columns, ids, and columns that equal or predict the label."""
    warnings: list[str] = []
    notes: list[str] = []
    by_name = {column.name: column for column in columns}
    for each in columns:
        is_read = "; it is read as text" if each.name in text else ""
        if each.is_constant:
            warnings.append(f"the column {each.name} has one value in all rows{is_read}")
        elif each.is_id and each.name not in label_columns:
            is_named = has_ids or is_read
            hint = "" if is_named else f"; {typed('task.id', each.name)} shows it with the predictions"
            (warnings if is_read else notes).append(
                f"{each.name}: a value of its own in each row, an id{is_read}{hint}"
            )
    if len(label_columns) != 1 or (label := label_columns[0]) not in by_name:
        return warnings, notes
    labels = table[label][:]
    for each in columns:
        if each.name == label or each.is_constant or each.is_id or each.distinct < 2:
            continue
        found = _leak(table[each.name][:], labels)
        if found is not None:
            use = "drop it from task.text" if each.name in text else "keep it out of task.text"
            warnings.append(f"the column {each.name} {found} {label}: unless it is known before the label, {use}")
    if names := [name for name in text if name in by_name and by_name[name].is_text]:
        share = _share_naming_label(table, names, labels)
        if share >= LEAK:
            warnings.append(f"the text contains the name of its label in {share} of the rows")
    return warnings, notes


def _leak(values: Sequence[Any], labels: Sequence[Any]) -> str | None:
    """Return how well a column predicts the label where it does so almost perfectly, else None."""
    pairs = [
        (key_of(v), key_of(y)) for v, y in zip(values, labels, strict=True) if not (is_missing(v) or is_missing(y))
    ]
    if len({y for _, y in pairs}) == len(pairs):  # answers in free text
        return None
    if len(set(pairs)) == len({value for value, _ in pairs}) == len({y for _, y in pairs}):
        return "has one value for each"
    share, majority = predicted_share([v for v, _ in pairs], [y for _, y in pairs])
    is_leak = share >= LEAK and share - majority >= LEAK_GAIN * (1 - majority)
    return f"alone predicts {Share(share)} of" if is_leak else None


def predicted_share(values: Sequence[Hashable], labels: Sequence[Hashable]) -> tuple[float, float]:
    """Return the share of labels that the other rows with the same value predict, and that of the commonest label.

    The prediction is the most frequent label among the other rows, a tie being wrong; a value of one row is predicted
    as the commonest label. Numbers of many values are divided into bins of equal size.
    """
    values = _binned(values)
    counts: Mapping[Hashable, Counter[Hashable]] = defaultdict(Counter)
    for value, label in zip(values, labels, strict=True):
        counts[value][label] += 1
    commonest, number = Counter(labels).most_common(1)[0]
    right = 0
    for found in counts.values():
        (best, most), *others = found.most_common(2)
        if found.total() == 1:
            right += best == commonest
        elif most - 1 > (others[0][1] if others else 0):
            right += most
    return right / len(labels), number / len(labels)


def _binned(values: Sequence[Hashable]) -> Sequence[Hashable]:
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not is_number or len({*values}) <= BINS:
        return values
    numbers = np.asarray(values, dtype=float)
    edges = np.quantile(numbers, np.linspace(0, 1, BINS + 1)[1:-1])
    return [int(each) for each in np.digitize(numbers, edges)]


def _share_naming_label(table: Dataset, text: Sequence[str], labels: Sequence[Any]) -> Share:
    """Return the share of rows whose text contains the name of the label as a word."""
    texts = zip(*(table[name][:] for name in text), strict=True)
    found = [
        bool(re.search(rf"\b{re.escape(str(label).casefold())}\b", " ".join(map(str, each)).casefold()))
        for each, label in zip(texts, labels, strict=True)
        if isinstance(label, str) and not is_missing(label) and label.strip()
    ]
    return Share(sum(found) / len(found)) if found else Share(0)
