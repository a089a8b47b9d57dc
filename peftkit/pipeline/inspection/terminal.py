"""An inspection in the terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from peftkit.pipeline.inspection.sections import Inspection, Section, cell_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

DEFAULT_WIDTH = 100  # characters, without a terminal
NARROWEST = 24  # characters of a column that is not of texts, unless it needs fewer


def show(found: Inspection, console: Console | None = None) -> None:
    """Print the sections, and the warnings of all sections at the end."""
    from rich.console import Console

    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = console or Console(width=None if has_width else DEFAULT_WIDTH, highlight=False)
    for section in found.sections:
        _show_section(console, section)
    if found.warnings:
        console.print(_text("What to look at", "bold"))
        for warning in found.warnings:
            console.print(_hanging("!! ", warning, "yellow"))


def _show_section(console: Console, section: Section) -> None:
    from rich import box
    from rich.table import Table

    console.print(_text(section.title, "bold"))
    for line in section.lines:
        console.print(_text(line))
    if section.rows:
        has_text = any(name.endswith("text") for name in section.columns)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, expand=has_text)
        for number, name in enumerate(section.columns):
            is_number = all(isinstance(row[number], int | float) for row in section.rows)
            width = max(len(name), *(len(cell_text(row[number])) for row in section.rows))
            is_text = name.endswith("text")
            table.add_column(
                _text(name.removesuffix(" text") or name), justify="right" if is_number else "left",
                no_wrap=is_text or is_number, overflow="ellipsis" if is_text else "fold", ratio=1 if is_text else None,
                min_width=8 if is_text else min(width, NARROWEST),
            )  # fmt: skip
        for row in section.rows:
            table.add_row(*(_text(cell_text(cell)) for cell in row))
        console.print(table)
    for note in section.notes:
        console.print(_text(note, "dim"))
    console.print()


def _hanging(mark: str, text: str, style: str) -> object:
    """Return a text whose lines after the first are indented by the width of a mark."""
    from rich.table import Table

    grid = Table.grid()
    grid.add_column(width=len(mark))
    grid.add_column(overflow="fold")
    grid.add_row(_text(mark, style), _text(text, style))
    return grid


def _text(value: str, style: str = "") -> Text:
    """Return a text without markup and control characters."""
    from rich.text import Text

    return Text("".join(letter if letter.isprintable() else " " for letter in value), style=style)
