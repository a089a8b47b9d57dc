"""Turn results into tables for the terminal, a spreadsheet and a web page: one a source of data, and GLUE's."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.leaderboard import COSTS, TIMED, Broken, Result, collect
from peftkit.leaderboard.stats import GLUE, GlueLine, Row, Summary, board, glue_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["board", "collect", "glue_table", "show", "write", "write_csv", "write_markdown"]

NARROW = 100  # columns, where there is no terminal to ask
SHORT = {"matthews_correlation": "matthews", "mean_squared_error": "mse ↓", "perplexity": "perplexity ↓"}
DROPPED_FIRST = ("tok/s", "head", "peak", "to ship", "trained", "time")  # when the terminal is narrow
SPREAD = "± is the sample standard deviation over seeds; a single seed has none."
MARKDOWN = {c: f"\\{c}" for c in "\\|`*_[]#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def show(results: Sequence[Result | Broken], console: Console | None = None, width: int | None = None) -> None:
    """Print a table a source of data, then GLUE's, then every run without scores and why.

    Columns that do not fit are named below the table; `width` is in characters, the terminal's own by default.
    """
    from rich.console import Console
    from rich.text import Text

    if console is None:
        is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
        console = Console(width=NARROW if is_piped else None, highlight=False)
    if width is not None:
        console.width = width
    lines = glue_table(results)
    for title, rows in _boards(board(results)):
        console.print(Text(_plain(title), style="bold yellow" if title.startswith("EMBEDDED") else "bold"))
        _show_board(console, rows)
        here = [line for line in lines if line.board == title]
        if len({task for line in here for task in line.scores}) > 1:  # one task alone stands above
            _show_glue(console, title, here)
    for text in _problems(results):
        console.print(Text(_plain(text), style="red"))


def write(results: Sequence[Result | Broken], folder: Path) -> None:
    """Write leaderboard.csv, glue.csv and leaderboard.md into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(results, folder)
    write_markdown(results, folder / "leaderboard.md")


def write_csv(results: Sequence[Result | Broken], folder: Path) -> None:
    """Write leaderboard.csv and, where there is a GLUE task, glue.csv: values in the units of result.json."""
    rows = board(results)
    metrics = list(dict.fromkeys(name for row in rows for name in row.scores))
    _write_csv([_values(row, metrics) for row in rows], folder / "leaderboard.csv")
    lines = glue_table(results)
    _write_csv([_glue_values(line) for line in lines], folder / "glue.csv")


def write_markdown(results: Sequence[Result | Broken], file: Path) -> None:
    """Write the tables that `show` prints, whole, and with text from runs escaped."""
    lines = glue_table(results)
    text = f"# Leaderboard\n\nScores are times 100. {SPREAD}\n"
    for title, rows in _boards(board(results)):
        text += f"\n## {_escaped(title)}\n"
        marks = _marks(rows)
        for task, its_rows in groupby(rows, key=lambda row: row.task):
            same_task = list(its_rows)
            text += f"\n### {_escaped(task)}\n\n" + _markdown(
                [_cells(row, marks, _metrics(same_task)) for row in same_task]
            )
        text += "".join(f"\n{_escaped(note)}\n" for note in _notes(rows, marks))
        here = [line for line in lines if line.board == title]
        if here:
            text += f"\n### GLUE, {_escaped(title.removeprefix('glue, '))}\n\n"
            text += _markdown([_glue_cells(line) | {"missing": ", ".join(line.missing)} for line in here])
    problems = _problems(results)
    if problems:
        text += f"\n## {_escaped(problems[0])}\n\n" + "".join(f"- {_escaped(line)}\n" for line in problems[1:])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _boards(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    return [(title, list(group)) for title, group in groupby(rows, key=lambda row: row.board)]


def _show_board(console: Console, rows: list[Row]) -> None:
    """Print one table whose sections are the tasks; a section's first line names its metrics."""
    marks = _marks(rows)
    most = max(len(_metrics(rows_of)) for rows_of in _by_task(rows))
    sections: list[list[dict[str, str]]] = []
    for same_task in _by_task(rows):
        names = _metrics(same_task)
        slots = [f"score {number}" for number in range(most)]
        head = {"method": same_task[0].task} | dict(zip(slots, map(_metric_name, names), strict=False))
        lines = []
        for row in same_task:
            cells = _cells(row, marks, [])
            scores = [_score(row, name) for name in names] or ["–"]
            lines.append({**cells, "method": f"  {cells['method']}", **dict(zip(slots, scores, strict=False))})
        sections.append([head, *lines])
    columns = _columns([line for section in sections for line in section], most)
    shown = list(columns)
    for name in DROPPED_FIRST:
        if _width(columns, shown) > console.width and name in shown:
            shown.remove(name)
    table = _table([("" if name.startswith("score") else name) for name in shown])
    for section in sections:
        for number, line in enumerate(section):
            style = "bold" if number == 0 else "red" if line.get("seeds", "").startswith("0 ") else None
            table.add_row(*(_text(line.get(name, "")) for name in shown), style=style)
        table.add_section()
    console.print(table)
    left_out = [name for name in columns if name not in shown]
    notes = _notes(rows, marks)
    if left_out:
        notes.append(f"No room for {', '.join(left_out)}: widen the terminal to {_width(columns, list(columns))}.")
    for note in notes:
        console.print(_text(note, "dim"))
    console.print()


def _by_task(rows: Sequence[Row]) -> list[list[Row]]:
    return [list(group) for _, group in groupby(rows, key=lambda row: row.task)]


def _columns(lines: Sequence[dict[str, str]], metrics: int) -> dict[str, int]:
    """Return the columns that hold anything, and how wide each is, in order."""
    from rich.cells import cell_len

    slots = [f"score {number}" for number in range(metrics)]
    names = [
        "method",
        "model",
        "settings",
        *slots,
        "vs full",
        "seeds",
        "trained",
        "head",
        "to ship",
        "time",
        "peak",
        "tok/s",
    ]
    widths = {name: max((cell_len(_plain(line.get(name, ""))) for line in lines), default=0) for name in names}
    widths["settings"] = min(widths["settings"], 24)  # folds
    if len({line["model"] for line in lines if line.get("model")}) < 2:
        del widths["model"]
    return {name: max(n, 0 if name in slots else len(name)) for name, n in widths.items() if n}


def _width(columns: dict[str, int], shown: Sequence[str]) -> int:
    return sum(columns[name] + 2 for name in shown)


def _show_glue(console: Console, title: str, lines: Sequence[GlueLine]) -> None:
    cells = [_glue_cells(line) for line in lines]
    names = [name for name in cells[0] if name in GLUE or name == "average" or len({each[name] for each in cells}) > 1]
    names = ["method", *(name for name in names if name != "method")]
    table = _table(names)
    for each in cells:
        table.add_row(*(_text(each[name]) for name in names))
    console.print(
        _text(f"GLUE, {title.removeprefix('glue, ')}", "bold yellow" if title.startswith("EMBEDDED") else "bold")
    )
    console.print(table)
    for missing in dict.fromkeys(tuple(line.missing) for line in lines if line.missing):
        who = ", ".join(f"{x.method} {x.settings}".strip() for x in lines if tuple(x.missing) == missing)
        console.print(_text(f"No average for {who}: missing {', '.join(missing)}.", "dim"))
    console.print()


def _table(names: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name in names:
        is_text = name in ("method", "model", "settings")
        # where there is too little room a number folds: cut short, it would pass for another number
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    return table


def _cells(row: Row, marks: dict[str, str], metrics: Sequence[str]) -> dict[str, str]:
    """Return what the terminal and Markdown show of a row."""
    trained, total = row.costs.get("trainable_params"), row.costs.get("total_params")
    share = f" {_percent(trained / total)}" if trained is not None and total else ""
    is_up = any(row.higher_is_better.values())
    delta = "" if row.delta is None else f"{100 * row.delta:+.1f}" if is_up else f"{-row.delta:+.3g}"
    seconds, peak, speed = (_timed(row, marks, name) for name in TIMED)
    return {
        "method": row.method,
        "model": row.model.split("/")[-1],
        "settings": row.settings,
        **{_metric_name(name): _score(row, name) for name in metrics},
        "vs full": "ref" if row.is_reference else delta,
        "seeds": str(len(row.seeds)) if len(row.seeds) == row.asked else f"{len(row.seeds)} of {row.asked}",
        "trained": _amount(trained) + share,
        "head": _amount(row.costs.get("head_params")),
        "to ship": _amount(row.costs.get("adapter_bytes"), "B"),
        "time": seconds,
        "peak": peak,
        "tok/s": speed,
    }


def _timed(row: Row, marks: dict[str, str], name: str) -> str:
    """Show a cost that holds for one machine, with the machine's mark where the board has several."""
    form = {"train_seconds": _duration, "train_peak_bytes": lambda v: _amount(v, "B"), "tokens_per_second": _amount}[
        name
    ]
    there = [(device, costs[name]) for device, costs in row.timed.items() if name in costs]
    return ", ".join(form(value) + (f" {marks[device]}" if marks else "") for device, value in there)


def _marks(rows: Sequence[Row]) -> dict[str, str]:
    """Return a letter a machine, or nothing where there is one machine only."""
    devices = sorted({device for row in rows for device in row.timed})
    return (
        {device: chr(ord("A") + n) if n < 26 else str(n) for n, device in enumerate(devices)}
        if len(devices) > 1
        else {}
    )


def _notes(rows: Sequence[Row], marks: dict[str, str]) -> list[str]:
    counts = {row.task: row.rows.get("train") for row in rows if row.rows.get("train")}
    models = sorted({row.model for row in rows})
    notes = [f"Model: {models[0]}."] if len(models) == 1 else []
    if counts:
        same = len(set(counts.values())) == 1
        each = f"{next(iter(counts.values()))} each" if same else ", ".join(f"{task} {n}" for task, n in counts.items())
        notes.append(f"Training rows: {each}. {SPREAD}")
    if not all(up for row in rows for up in row.higher_is_better.values()):
        notes.append("↓ less is better; as it is, not times 100.")
    if marks:
        named = "; ".join(f"{mark} = {device}" for device, mark in marks.items())
        notes.append(f"Machines, whose time, peak and tok/s do not compare: {named}.")
    return notes


def _problems(results: Iterable[Result | Broken]) -> list[str]:
    """Return a headline, and a line a run that has no scores, or none that count."""
    found = list(results)
    lines = []
    for result in found:
        if result.problem:
            what = ""
            if isinstance(result, Result):
                what = f"{result.task} {result.model} {result.method} seed {result.seed}: "
            lines.append(f"{what}{result.problem}  ({result.folder})")
    return [f"{len(lines)} of {len(found)} runs without scores that count:", *lines] if lines else []


def _metrics(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.scores))


def _metric_name(name: str) -> str:
    return SHORT.get(name, name.removeprefix("accuracy_"))


def _score(row: Row, name: str) -> str:
    entry = row.scores.get(name)
    if entry is None:
        return "–"
    if not row.higher_is_better[name]:  # an error has the unit of its labels
        return f"{entry.mean:.4g}" + ("" if entry.spread is None else f" ± {entry.spread:.2g}")
    return f"{100 * entry.mean:.1f}" + ("" if entry.spread is None else f" ± {100 * entry.spread:.1f}")


def _glue_cells(line: GlueLine) -> dict[str, str]:
    average = "–" if line.average is None else f"{100 * line.average:.1f}"
    average += "" if line.spread is None else f" ± {100 * line.spread:.1f}"
    scores = {task: f"{100 * line.scores[task]:.1f}" if task in line.scores else "–" for task in GLUE}
    return {
        "method": line.method,
        "model": line.model.split("/")[-1],
        "settings": line.settings,
        **scores,
        "average": average,
    }


def _glue_values(line: GlueLine) -> dict[str, Any]:
    return {
        "board": line.board, "method": line.method, "model": line.model, "settings": line.settings,
        **{task: line.scores.get(task) for task in GLUE},
        "average": line.average, "average spread": line.spread, "missing": ", ".join(line.missing),
    }  # fmt: skip


def _values(row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    """Return a row for a spreadsheet: plain numbers, in the units of result.json."""
    blank = Summary(float("nan"), None, 0)
    scores: dict[str, Any] = {}
    for name in metrics:
        entry = row.scores.get(name, blank)
        scores |= {name: entry.mean if entry.n else None, f"{name} spread": entry.spread}
    trained, total = row.costs.get("trainable_params"), row.costs.get("total_params")
    costs = {name: row.costs.get(name) for name in COSTS if name not in TIMED}
    timed = {
        name: "; ".join(f"{costs[name]:.6g} ({device})" for device, costs in row.timed.items() if name in costs)
        if len(row.timed) > 1
        else next(iter(row.timed.values()), {}).get(name)
        for name in TIMED
    }
    return {
        "board": row.board, "suite": row.suite, "task": row.task, "model": row.model, "method": row.method,
        "settings": row.settings, "score": row.score, **scores, "vs full": row.delta, "n seeds": len(row.seeds),
        "seeds": " ".join(map(str, row.seeds)), "training rows": row.rows.get("train"), **costs,
        "trainable share": trained / total if trained is not None and total else None, **timed,
        "device": "; ".join(row.timed), "problems": "; ".join(row.problems),
    }  # fmt: skip


def _write_csv(lines: Sequence[dict[str, Any]], file: Path) -> None:
    if not lines:
        file.unlink(missing_ok=True)  # of an earlier board
        return
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(map(_harmless, lines[0]))
        writer.writerows(map(_harmless, line.values()) for line in lines)


def _harmless(value: Any) -> Any:
    """Keep a spreadsheet from reading text of a run as a formula."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    text = _plain(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")) else text


def _markdown(lines: Sequence[dict[str, str]]) -> str:
    names = [name for name in lines[0] if any(line[name] for line in lines)]
    head = f"| {' | '.join(map(_escaped, names))} |\n|{' --- |' * len(names)}\n"
    return head + "".join(f"| {' | '.join(_escaped(line[name]) for name in names)} |\n" for line in lines)


def _escaped(text: str) -> str:
    return "".join(MARKDOWN.get(c, c) for c in _plain(text))


def _text(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(_plain(text), style=style)  # a Text, so that brackets of a run's text are no markup


def _plain(text: str) -> str:
    """Keep text of a run from moving the cursor, colouring the terminal or turning its line around."""
    return "".join(c if c.isprintable() else " " for c in text)


def _amount(value: float | None, unit: str = "") -> str:
    if value is None:
        return ""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:{'.3g' if value < 99.5 * size else '.0f'}} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def _percent(share: float) -> str:
    return f"{100 * share:.{'0f' if share > 0.1 else '2g'}}%"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
