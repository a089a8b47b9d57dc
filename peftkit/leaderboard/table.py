"""The leaderboard in the terminal: a table for each source of data, and GLUE's."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peftkit.leaderboard.cells import (
    Ranked,
    boards_of,
    cells_of,
    glue_cells,
    marks_of,
    metric_name,
    metrics_of,
    notes_of,
    plain,
    problems_of,
    score_cell,
    tasks_of,
    totals_cells,
)
from peftkit.leaderboard.entries import BoardEntry, GlueEntry
from peftkit.leaderboard.headlines import sentences
from peftkit.leaderboard.judges import JUDGE_NOTE, judge_tables
from peftkit.leaderboard.language import NOTE, language_cells
from peftkit.leaderboard.runs import BoardRun, UnreadableRun
from peftkit.leaderboard.stats import GLUE, glue_entries
from peftkit.leaderboard.verdict import Verdict, judged

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


SHOWN = 40  # entries of a task
NARROW = 100  # characters, without a terminal
DROPPED_FIRST = (
    "time to 95 %",
    "merged latency",
    "latency per example",
    "95 % interval",
    "tokens/s",
    "head parameters",
    "peak memory",
    "checkpoint size",
    "trained parameters",
    "training time",
)  # when the terminal is narrow


def show(
    results: Sequence[BoardRun | UnreadableRun],
    console: Console | None = None,
    width: int | None = None,
    known: tuple[list[BoardEntry], Verdict] | None = None,
) -> None:
    """Print a table and its findings for each source of data, the GLUE table, and the runs without scores.

    Columns that do not fit are named below the table; `width` is in characters, the terminal's own by default. Of
    each task the best entries are shown; the files have all. `known` is `judged(results)` if computed.
    """
    from rich.console import Console
    from rich.text import Text

    if console is None:
        is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
        console = Console(width=NARROW if is_piped else None, highlight=False)
    if width is not None:
        console.width = width
    entries, verdict = known or judged(results)
    lines = glue_entries(entries)
    for title, ranked in boards_of(entries, verdict.groups):
        console.print(Text(plain(title), style="bold yellow" if title.startswith("OFFLINE") else "bold"))
        _show_board(console, ranked)
        summaries = sentences(entries, verdict, title)
        for task, text in summaries.items():
            console.print(_text(f"{task}: {text}"))
        if len(summaries) > 1:
            _show_records(console, totals_cells(verdict.records, title))
        console.print()
        if changes := language_cells(entries, results, title):
            _show_lines(console, "Language, before and after", changes, NOTE)
        judges = judge_tables(entries, results, title)
        for number, (judge, compared) in enumerate(judges, start=1):
            _show_lines(console, judge, compared, JUDGE_NOTE if number == len(judges) else "")
        glue = [line for line in lines if line.board == title]
        if len({task for line in glue for task in line.scores}) > 1:  # a single task is in the table above
            _show_glue(console, title, glue)
    for text in verdict.notes:
        console.print(_text(text, "dim"))
    for headline, problems in problems_of(results).items():
        style = "yellow" if "unfinished" in headline else "red"
        for text in (headline, *problems):
            console.print(_text(text, style))


def _show_board(console: Console, ranked: Sequence[Ranked]) -> None:
    """Print one table whose sections are the tasks; a section's first line names its metrics."""
    marks = marks_of(ranked)
    most = max(len(metrics_of(same_task)) for same_task in tasks_of(ranked))
    sections: list[list[dict[str, str]]] = []
    for same_task in tasks_of(ranked):
        names = metrics_of(same_task)
        slots = [f"score {number}" for number in range(most)]
        head = {"method": same_task[0][0].task} | dict(zip(slots, map(metric_name, names), strict=False))
        lines = []
        for each in same_task[:SHOWN]:
            cells = cells_of(each, marks, [])
            scores = [score_cell(each[0], name) for name in names] or ["–"]
            lines.append({**cells, "method": f"  {cells['method']}", **dict(zip(slots, scores, strict=False))})
        sections.append([head, *lines])
    columns = _columns([line for section in sections for line in section], most)
    shown = list(columns)
    for name in DROPPED_FIRST:
        if _width(columns, shown) > console.width and name in shown:
            shown.remove(name)
    table = _table([("" if name.startswith("score") else name.replace(" ", "\n")) for name in shown])
    for section in sections:
        for number, line in enumerate(section):
            style = "bold" if number == 0 else "red" if line.get("seeds", "").startswith("0 ") else None
            table.add_row(*(_text(line.get(name, "")) for name in shown), style=style)
        table.add_section()
    console.print(table)
    left_out = [name for name in columns if name not in shown]
    notes = notes_of(ranked, marks)
    longest = max(map(len, tasks_of(ranked)))
    if longest > SHOWN:
        notes.append(f"The best {SHOWN} of up to {longest} entries of a task; the files of job=leaderboard have all.")
    if left_out:
        notes.append(
            f"Hidden for lack of width: {', '.join(left_out)}: all need {_width(columns, list(columns))} characters."
        )
    for note in notes:
        console.print(_text(note, "dim"))


def _columns(lines: Sequence[dict[str, str]], metrics: int) -> dict[str, int]:
    """Return the non-empty columns in order, with their widths."""
    from rich.cells import cell_len

    slots = [f"score {number}" for number in range(metrics)]
    names = [
        "method",
        "model",
        "settings",
        *slots,
        "group",
        "95 % interval",
        "Δ vs. full",
        "seeds",
        "learning-rate trials",
        "trained parameters",
        "head parameters",
        "checkpoint size",
        "training time",
        "peak memory",
        "tokens/s",
        "latency per example",
        "merged latency",
        "time to 95 %",
    ]
    widths = {name: max((cell_len(plain(line.get(name, ""))) for line in lines), default=0) for name in names}
    if {line["learning-rate trials"] for line in lines if "learning-rate trials" in line} == {"1"}:
        del widths["learning-rate trials"]
    widths["settings"] = min(widths["settings"], 24)  # folds
    if len({line["model"] for line in lines if line.get("model")}) < 2:
        del widths["model"]
    return {name: max(n, 0 if name in slots else max(map(len, name.split()))) for name, n in widths.items() if n}


def _width(columns: dict[str, int], shown: Sequence[str]) -> int:
    return sum(columns[name] + 2 for name in shown)


def _show_records(console: Console, lines: Sequence[dict[str, str]]) -> None:
    table = _table(list(lines[0]))
    for line in lines[:SHOWN]:
        table.add_row(*map(_text, line.values()))
    console.print(_text("Tasks won, tied and lost against the other entries:", "dim"))
    console.print(table)


def _show_lines(console: Console, heading: str, lines: Sequence[dict[str, str]], note: str) -> None:
    names = [name for name in lines[0] if any(line[name] for line in lines)]
    table = _table(names)
    for line in lines[:SHOWN]:
        table.add_row(*(_text(line[name]) for name in names))
    console.print(_text(heading, "bold"))
    console.print(table)
    console.print(_text(f"{note}\n" if note else "", "dim"))


def _show_glue(console: Console, title: str, lines: Sequence[GlueEntry]) -> None:
    beyond, lines = len(lines) - SHOWN, lines[:SHOWN]
    cells = [glue_cells(line) for line in lines]
    names = [name for name in cells[0] if name in GLUE or name == "average" or len({each[name] for each in cells}) > 1]
    names = ["method", *(name for name in names if name != "method")]
    table = _table(names)
    for each in cells:
        table.add_row(*(_text(each[name]) for name in names))
    console.print(
        _text(f"GLUE, {title.removeprefix('glue, ')}", "bold yellow" if title.startswith("OFFLINE") else "bold")
    )
    console.print(table)
    for missing in dict.fromkeys(tuple(line.missing) for line in lines if line.missing):
        without = ", ".join(f"{x.method} {x.settings}".strip() for x in lines if tuple(x.missing) == missing)
        console.print(_text(f"No average for {without}: missing {', '.join(missing)}.", "dim"))
    if beyond > 0:
        console.print(_text(f"{beyond} more entries.", "dim"))
    console.print()


def _table(names: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name in names:
        is_text = name in ("task", "method", "model", "settings")
        # too wide a number folds: truncated, it would read as another number
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    return table


def _text(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(plain(text), style=style)  # a Text, so that brackets in text of a run are not markup
