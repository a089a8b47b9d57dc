"""The sections of an inspection, which the terminal and the page show alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class Share(float):
    """A part of a whole, shown in percent and, where there is space, as a bar."""

    def __str__(self) -> str:
        return f"{100 * self:.1f} %"


@dataclass(frozen=True)
class Section:
    """One subject: warnings, sentences about it, and a table.

    Args:
        warnings: sentences about what to correct, repeated at the top of the page.
        columns: the headings of the table; a heading that ends in "text" is that of texts, which may be cut.
        rows: the cells of the table: texts, integers, floats and shares.
        notes: how the figures were computed.
    """

    title: str
    warnings: Sequence[str] = ()
    lines: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Inspection:
    """What was found in the data of a task.

    Args:
        name: of the data set.
        command: the command that made the inspection.
        next_command: the command to type next.
        refusal: why a training run would refuse the data; the next command is not shown then.
    """

    name: str
    command: str
    sections: Sequence[Section]
    next_command: str
    refusal: str | None = None

    @property
    def warnings(self) -> list[str]:
        return [warning for section in self.sections for warning in section.warnings]


def cell_text(value: Any) -> str:
    """Return a cell as text: integers with separators, floats with two digits at most."""
    if isinstance(value, Share):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def shortened(text: str, width: int = 200) -> str:
    """Return a text on one line, of which a long one is cut."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."


def plural(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"
