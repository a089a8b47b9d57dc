"""Scores of classes and of types of entities, in a page and in the terminal."""

import math
from collections.abc import Mapping, Sequence

from rich.cells import cell_len, set_cell_size

from peftkit.metrics.per_class import ClassScores, Estimate
from peftkit.results.page import Html, element, table

SHOWN_WARNINGS = 5
NAME_CELLS = 24  # of a name in the terminal


def with_interval(estimate: Estimate) -> Html:
    """Return a share with its interval, – where it is undefined."""
    if math.isnan(estimate.value):
        return element("span", "–")
    interval = element("small", f"{estimate.low:.3f}–{estimate.high:.3f}")
    return element("span", f"{estimate.value:.3f} ", interval)


def score_lines(heading: str, rows: Sequence[tuple[str, ClassScores]]) -> list[str]:
    """Return the scores of names as lines of at most 80 characters."""
    width = min(NAME_CELLS, max([len(heading), *(cell_len(name) for name, _ in rows)]))
    lines = [f"{heading:{width}}  labeled  precision  recall     F1  95 % interval of F1"]
    for name, each in rows:
        precision, recall, f1 = (_number(score.value) for score in (each.precision, each.recall, each.f1))
        cut = name if cell_len(name) <= width else f"{set_cell_size(name, width - 1)}…"
        lines.append(
            f"{set_cell_size(cut, width)}  {each.labeled:7,}  {precision:>9}  {recall:>6}  {f1:>5}  "
            f"{_number(each.f1.low)} to {_number(each.f1.high)}"
        )
    return lines


def lowest_first(found: Mapping[str, ClassScores]) -> list[str]:
    """Return names by F1, of equal ones the most frequent first."""
    return sorted(found, key=lambda name: (found[name].f1.value, -found[name].labeled, name))


def scores_table(caption: str, heading: str, found: Mapping[str, ClassScores], order: Sequence[str]) -> Html:
    """Return a table of scores in this order of names."""
    headings = [heading, "labeled", "predicted", "right", "precision", "recall", "F1"]
    rows = [
        (
            name,
            *(f"{count:,}" for count in (each.labeled, each.predicted, each.correct)),
            *map(with_interval, (each.precision, each.recall, each.f1)),
        )
        for name in order
        for each in (found[name],)
    ]
    return table(caption, headings, rows, headings[1:])


def never_found(kind: str, found: Mapping[str, ClassScores]) -> tuple[str, ...]:
    """Return a warning for each name that occurs and was never right, the most frequent first."""
    missed = [name for name, each in found.items() if each.labeled and not each.correct]
    missed.sort(key=lambda name: -found[name].labeled)
    return tuple(
        f"{kind} {name}: 0 of {each.labeled} found (recall 0.000, 95 % interval 0.000 to {each.recall.high:.3f})"
        for name in missed[:SHOWN_WARNINGS]
        for each in (found[name],)
    )


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
