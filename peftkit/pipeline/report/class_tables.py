"""Scores of classes and of types of entities, in a page and in the terminal."""

import math
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from peftkit.metrics.per_class import ClassScores, Estimate
from peftkit.results.page import Html, element

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


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
