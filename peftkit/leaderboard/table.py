"""The leaderboard in the terminal: a table for each source of data, and GLUE's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.leaderboard.board import Board
from peftkit.leaderboard.domains import NOTE as DOMAINS_NOTE
from peftkit.leaderboard.domains import domain_cells
from peftkit.leaderboard.glue import glue_entries
from peftkit.leaderboard.judges import JUDGE_NOTE, judge_tables
from peftkit.leaderboard.language import NOTE, language_cells
from peftkit.leaderboard.rendering import (
    FLAG,
    Ranked,
    boards_of,
    entry_cells,
    glue_cells,
    marks_of,
    metric_headings,
    metrics_of,
    notes_of,
    plain,
    problems_of,
    score_names,
    tasks_of,
    totals_cells,
    wrapped,
)
from peftkit.leaderboard.runs import GlueEntry
from peftkit.leaderboard.sentences import summary_sentences
from peftkit.leaderboard.stats import GLUE
from peftkit.leaderboard.verdict import NOT_BETTER

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SHOWN = 40  # entries per task, at most
DEFAULT_WIDTH = 100  # characters, without a terminal
NAME_WIDTHS = (30, 24, 18, 13)  # characters of a line of a name; the first with which the table fits
DROPPED_FIRST = (
    "time to 95 %",
    "merged latency",
    "latency per example",
    "tokens/s",
    "head parameters",
    "peak memory",
    "checkpoint size",
    "trained parameters",
    "training time",
    "trials",
    "seeds",
    "Δ vs. full",
    "95 % interval",
)  # when the terminal is narrow


def show(board: Board, console: Console | None = None) -> None:
    """Print a table and its findings for each source of data, the GLUE table, and the runs without scores.

    Columns that do not fit are named below the table. Of each task the best entries are shown; the files have all.
    """
    from rich.console import Console

    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = console or Console(width=None if has_width else DEFAULT_WIDTH, highlight=False)
    verdict = board.verdict()
    glue = glue_entries(board.entries, verdict.against_baseline)
    for title, ranked in boards_of(board.entries, verdict.groups):
        style = "bold yellow" if title.startswith("OFFLINE") else "bold"
        console.print(_text(title, style))
        _show_board(console, ranked)
        summaries = summary_sentences(board.entries, verdict, title)
        for task, text in summaries.items():
            console.print(_text(f"{task}: {text}"))
        records = totals_cells(verdict.records, title) if len(summaries) > 1 else []
        _show_lines(console, "Tasks won, tied and lost against the other entries:", records, style="dim")
        if not records:
            console.print()
        _show_lines(console, "Language, before and after", language_cells(board.entries, title), [NOTE])
        _show_lines(console, "Scores by domain", domain_cells(board.entries, title), [DOMAINS_NOTE])
        judges = judge_tables(board.entries, title)
        for number, (judge, compared) in enumerate(judges, start=1):
            _show_lines(console, judge, compared, [JUDGE_NOTE if number == len(judges) else ""])
        lines = [line for line in glue if line.board == title]
        means = score_names(entry for entry, _ in ranked if entry.suite == "glue")
        if len({task for line in lines for task in line.scores}) > 1:  # a single task is in the table above
            _show_glue(console, f"GLUE, {title.removeprefix('glue, ')}", lines, style, means)
    for text in verdict.notes:
        console.print(_text(text, "dim"))
    for headline, problems in problems_of(board.runs).items():
        for text in (headline, *problems):
            console.print(_text(text, "yellow" if "unfinished" in headline else "red"))


def _show_board(console: Console, ranked: Sequence[Ranked]) -> None:
    """Print one table whose sections are the tasks; a section's first line names its metrics."""
    from rich.text import Text

    marks, tasks = marks_of(ranked), tasks_of(ranked)
    slots = [f"score {number}" for number in range(max(len(metrics_of(same_task)) for same_task in tasks))]
    sections: list[list[dict[str, str]]] = []
    for same_task in tasks:
        headings = metric_headings(same_task)
        names = [*headings.values()]
        lines = [entry_cells(each, marks, dict(zip(slots, names or [""], strict=False))) for each in _shown(same_task)]
        head = {"method": same_task[0][0].task, **dict(zip(slots, headings, strict=False))}
        sections.append([head, *({**line, "method": f"  {line['method']}"} for line in lines)])
    every = [line for section in sections for line in section]
    for wrap in NAME_WIDTHS:
        columns = _columns(every, slots, wrap)
        shown = _shown_columns(columns, console.width)
        if is_fitting := _width(columns, shown) <= console.width:
            break
    heads = {name: "" if name in slots else name.replace(" ", "\n").replace("95\n%", "95 %") for name in shown}
    table = _table(list(heads.values()), is_fitting)
    for section in sections:
        for number, line in enumerate(section):
            style = "bold" if number == 0 else "red" if line["seeds"].startswith("0 ") else None
            style = "dim" if number and not line["seeds"] else style  # a baseline
            cells = (Text(_wrapped_cell(name, line, wrap)) for name in shown)
            table.add_row(*cells, style=style, end_section=line is section[-1])
    console.print(table)
    notes, longest = notes_of(ranked, marks), max(sum(not entry.is_baseline for entry, _ in task) for task in tasks)
    if longest > SHOWN:
        notes.append(f"The best {SHOWN} of up to {longest} entries of a task; the files of job=leaderboard have all.")
    if hidden := ", ".join(name for name in columns if name not in shown):
        notes.append(
            f"Hidden because the terminal is narrow: {hidden}. All columns need {_width(columns, columns)} characters."
        )
    for note in notes:
        console.print(_text(note, "dim"))


def _shown(same_task: Sequence[Ranked]) -> list[Ranked]:
    """Return the best entries of a task, and its baselines."""
    baselines = [each for each in same_task if each[0].is_baseline]
    return [*[each for each in same_task if not each[0].is_baseline][:SHOWN], *baselines]


def _shown_columns(columns: Mapping[str, int], width: int) -> list[str]:
    """Return the columns that fit; those of DROPPED_FIRST are left out as far as necessary."""
    shown = list(columns)
    for name in DROPPED_FIRST:
        if _width(columns, shown) > width and name in shown:
            shown.remove(name)
    return shown


def _wrapped_cell(column: str, line: Mapping[str, str], wrap: int) -> str:
    """Return the text of a cell; names are wrapped at that many characters, after a space, slash or underscore."""
    text = plain(line.get(column, ""))
    if column not in ("method", "model"):
        return text
    indent = len(text) - len(text.lstrip())
    return "\n".join(" " * indent + each for each in wrapped(text.strip(), wrap - indent).split("\n"))


def _columns(lines: Sequence[Mapping[str, str]], slots: Sequence[str], wrap: int) -> dict[str, int]:
    """Return the non-empty columns in order, with their widths."""
    from rich.cells import cell_len

    names = list(dict.fromkeys(["method", "model", "settings", *slots, *(name for line in lines for name in line)]))
    cells = {name: [each for line in lines for each in _wrapped_cell(name, line, wrap).split("\n")] for name in names}
    widths = {name: max(map(cell_len, each)) for name, each in cells.items()}
    if {line.get("trials") or "1" for line in lines} == {"1"}:
        del widths["trials"]
    widths["settings"] = min(widths["settings"], 24)  # folds
    if len({line["model"] for line in lines if line.get("model")}) < 2:
        del widths["model"]
    return {name: max(n, 0 if name in slots else max(map(len, name.split()))) for name, n in widths.items() if n}


def _width(columns: Mapping[str, int], shown: Iterable[str]) -> int:
    return sum(columns[name] + 2 for name in shown)


def _show_glue(
    console: Console, heading: str, lines: Sequence[GlueEntry], style: str, means: Mapping[str, str]
) -> None:
    """Print the GLUE table; `means` are the tasks whose score is a mean of several metrics."""
    baselines = [line for line in lines if line.is_baseline]
    lines = [line for line in lines if not line.is_baseline]
    shown = [*lines[:SHOWN], *baselines]
    cells = [glue_cells(line) for line in shown]
    varying = [name for name in cells[0] if len({each[name] for each in cells[: len(lines)]}) > 1]
    heads = [name for name in cells[0] if name in ("method", *varying, *GLUE, "average") and name != "vs. majority"]
    notes = [f"Scores: {', '.join(f'{task} {name}' for task, name in means.items())}."] if means else []
    flagged = ", ".join(f"{x.method} {x.settings}".strip() for x in shown if x.against_baseline == NOT_BETTER)
    notes += [f"Average {FLAG}: {flagged}."] if flagged else []
    for missing in dict.fromkeys(tuple(line.missing) for line in shown if line.missing):
        named = [
            [x.method, x.settings, x.model_label if "model" in varying else ""]
            for x in shown
            if tuple(x.missing) == missing
        ]
        without = ", ".join(" ".join(filter(None, parts)) for parts in named)
        notes.append(f"No average for {without}: missing {', '.join(missing)}.")
    notes += [f"{len(lines) - SHOWN} more entries."] if len(lines) > SHOWN else []
    _show_lines(console, heading, [{name: each[name] for name in heads} for each in cells], [*notes, ""], style)


def _show_lines(
    console: Console,
    heading: str,
    lines: Sequence[Mapping[str, str]],
    notes: Sequence[str] = ("",),
    style: str = "bold",
) -> None:
    """Print a heading, a table without its empty columns, and notes; nothing where there are no lines."""
    from rich.cells import cell_len
    from rich.text import Text

    if not lines:
        return
    names = [name for name in lines[0] if any(line[name] for line in lines)]
    for wrap in NAME_WIDTHS:
        cells = {name: [_wrapped_cell(name, line, wrap) for line in lines] for name in names}
        widths = [max(cell_len(part) for each in (name, *cells[name]) for part in each.split("\n")) for name in names]
        if is_fitting := sum(widths) + 2 * len(widths) <= console.width + 2:
            break
    table = _table(names, is_fitting)
    for row in zip(*cells.values(), strict=True):
        table.add_row(*map(Text, row))
    for part in (_text(heading, style), table, *(_text(note, "dim") for note in notes)):
        console.print(part)


def _table(names: Sequence[str], is_fitting: bool) -> Table:
    """Return an empty table; one that does not fit is folded, also in the middle of a word."""
    from rich import box
    from rich.table import Column, Table

    texts = ("task", "method", "model", "settings")
    # too long numbers fold: truncated, they would look like other numbers
    columns = [
        Column(
            name, justify="left" if name in texts else "right", overflow="fold",
            no_wrap=is_fitting and name != "settings",
        )
        for name in names
    ]  # fmt: skip
    return Table(
        *columns, box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0), show_edge=False
    )


def _text(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(plain(text), style=style)  # a Text, so that brackets in text of a run are not markup
