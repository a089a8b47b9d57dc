"""Turn run folders into tables: one a task, and GLUE's, embedded stand-ins always apart from the real thing."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.leaderboard.stats import GLUE, Summary, glue_average, missing_tasks, summarize

REFERENCE = "full"  # the method that the others are held against
SAME_RUN = {"seed", "out", "force", "job", "run", "input", "output", "source", "data_root"}


@dataclass(frozen=True)
class Result:
    """One run as it was recorded; `problem` says why it has no scores."""

    folder: Path
    record: dict[str, Any]
    problem: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        return self.record["run"]["config"]

    @property
    def sources(self) -> dict[str, Any]:
        return self.record["audit"]["sources"]


@dataclass(frozen=True)
class Row:
    """All seeds of one method, with one set of settings, on one task."""

    board: str
    task: str
    model: str
    method: str
    settings: str
    scores: dict[str, Summary]
    delta: float | None  # to full fine-tuning, in points of the task's score
    costs: dict[str, float | None]
    seeds: list[int]
    device: str
    problems: list[str]

    @property
    def score(self) -> float | None:
        return sum(entry.mean for entry in self.scores.values()) / len(self.scores) if self.scores else None


def collect(folders: Iterable[Path]) -> list[Result]:
    """Read every result.json below the folders; one that cannot be read is kept with its problem."""
    results = []
    for file in sorted({file for folder in folders for file in folder.rglob("result.json")}):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            meta, _, _ = record["meta"], record["run"]["config"]["method"]["name"], record["audit"]["sources"]["model"]
        except (ValueError, KeyError, TypeError) as error:
            results.append(Result(file.parent, {}, f"cannot be read: {error}"))
            continue
        reason = None if meta["status"] == "finished" else f"{meta['status']}: {meta['reason'] or 'not finished'}"
        results.append(Result(file.parent, record, reason))
    return results


def board(results: Sequence[Result]) -> list[Row]:
    """Return one row a method, task, model, source and settings, best score first within its task."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        if result.record:
            config = result.config
            key = (_board(result), config["task"]["name"], _model(result), config["method"]["name"], _key(result))
            groups.setdefault(key, []).append(result)
    settings = _differences(groups)
    rows = [_row(key, settings[key], members) for key, members in groups.items()]
    best: dict[tuple[str, str, str], float] = {}
    for row in rows:
        if row.method == REFERENCE and row.score is not None:
            cell = (row.board, row.task, row.model)
            best[cell] = max(best.get(cell, row.score), row.score)
    out = [_with_delta(row, best.get((row.board, row.task, row.model))) for row in rows]
    order = {task: number for number, task in enumerate(GLUE)}
    return sorted(out, key=lambda r: (r.board, order.get(r.task, 99), r.task, r.model, -(r.score or -9), r.method))


def glue_table(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """Return {board: {method and settings: {task: score}}} for rows of GLUE's tasks, best settings of each method."""
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if row.task in GLUE and row.score is not None:
            name = f"{row.method} ({row.model})" + (f" {row.settings}" if row.settings else "")
            tables.setdefault(row.board, {}).setdefault(name, {})[row.task] = row.score
    return tables


def show(results: Sequence[Result]) -> None:
    """Print the tables to the terminal, as wide as it is."""
    from rich.console import Console

    console = Console(width=None if os.isatty(1) else 120)
    rows = board(results)
    for title in dict.fromkeys(row.board for row in rows):
        _show_board(console, title, [row for row in rows if row.board == title])
    for title, methods in glue_table(rows).items():
        _show_glue(console, title, methods)
    for result in results:
        if result.problem:
            console.print(f"[red]{_plain(result.problem)}[/red]  {_plain(str(result.folder))}")


def write(results: Sequence[Result], folder: Path) -> None:
    """Write leaderboard.csv, leaderboard.md and, for GLUE, glue.csv into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = board(results)
    lines = [_flat(row) for row in rows]
    (folder / "leaderboard.csv").write_text(_csv(lines), encoding="utf-8")
    text = "# Leaderboard\n"
    for title in dict.fromkeys(row.board for row in rows):
        text += f"\n## {_cell(title)}\n\n" + _markdown([_flat(row) for row in rows if row.board == title])
    glue = []
    for title, methods in glue_table(rows).items():
        entries = [{"method": name, **_glue_cells(scores)} for name, scores in methods.items()]
        text += f"\n## GLUE: {_cell(title)}\n\n" + _markdown(entries)
        glue += [{"board": title, **entry} for entry in entries]
    problems = [f"- {_cell(str(result.folder))}: {_cell(result.problem)}" for result in results if result.problem]
    if problems:
        text += "\n## Without a result\n\n" + "\n".join(problems) + "\n"
    (folder / "leaderboard.md").write_text(text, encoding="utf-8")
    if glue:
        (folder / "glue.csv").write_text(_csv(glue), encoding="utf-8")


def _board(result: Result) -> str:
    """Name the table a result belongs to: what stands in for something never shares one with the real thing."""
    model, data = result.sources["model"], result.sources["data"]
    parts = [
        f"{what} {entry['name']} stands in for {entry['substituted_for']}"
        for what, entry in (("model", model), ("data", data))
        if entry["substituted_for"]
    ]
    return "EMBEDDED: " + ", ".join(parts) if parts else result.config["task"]["suite"]


def _model(result: Result) -> str:
    return str(result.sources["model"]["name"])


def _key(result: Result) -> str:
    """Return what must be equal for two runs to be seeds of one row."""
    settings = {key: value for key, value in result.config.items() if key not in SAME_RUN}
    return json.dumps([settings, result.record["audit"].get("rows")], sort_keys=True, default=str)


def _differences(groups: dict[tuple, list[Result]]) -> dict[tuple, str]:
    """Tell rows of one method on one task apart by the settings in which they differ."""
    families: dict[tuple, list[tuple]] = {}
    for key in groups:
        families.setdefault(key[:4], []).append(key)
    found = {}
    for keys in families.values():
        flat = {key: _flatten(groups[key][0].config) for key in keys}
        names = sorted({name for values in flat.values() for name in values})
        differing = [n for n in names if len({str(flat[key].get(n)) for key in keys}) > 1]
        differing = [n for n in differing if n.split(".")[0] not in SAME_RUN]
        # a rate that is interpolated stands twice
        differing = [n for n in differing if n != "method.learning_rate" or "train.learning_rate" not in differing]
        for key in keys:
            found[key] = " ".join(f"{n.split('.')[-1]}={flat[key].get(n)}" for n in differing)
    return found


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _row(key: tuple, settings: str, members: list[Result]) -> Row:
    done = [result for result in members if result.problem is None]
    names = list(done[0].record["scores"]) if done else []
    costs = (
        "trainable_params", "total_params", "head_params", "adapter_bytes", "train_seconds", "train_peak_bytes",
        "tokens_per_second",
    )  # fmt: skip
    return Row(
        board=key[0],
        task=key[1],
        model=key[2],
        method=key[3],
        settings=settings,
        scores={name: summarize([result.record["scores"][name]["value"] for result in done]) for name in names},
        delta=None,
        costs={name: _mean([result.record["costs"].get(name) for result in done]) for name in costs},
        seeds=sorted(result.record["meta"]["seed"] for result in done),
        device=", ".join(sorted({result.record["meta"]["device"] for result in done})),
        problems=[f"seed {r.record['meta']['seed']} {r.problem}" for r in members if r.problem],
    )


def _with_delta(row: Row, reference: float | None) -> Row:
    if reference is None or row.score is None or row.method == REFERENCE:
        return row
    return Row(**{**row.__dict__, "delta": row.score - reference})


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _show_board(console: Any, title: str, rows: list[Row]) -> None:
    from rich.table import Table

    devices = {row.device for row in rows if row.device}
    for task in dict.fromkeys(row.task for row in rows):
        here = [row for row in rows if row.task == task]
        table = Table(title=f"{task}  ·  {_plain(title)}", title_justify="left", header_style="bold")
        has_settings = any(row.settings for row in here)
        columns = ["method", "model", *(["settings"] if has_settings else []), "scores x100", "vs full", "seeds"]
        columns += ["trained", "to ship", "train s", "peak"] + (["machine"] if len(devices) > 1 else [])
        for number, name in enumerate(columns):
            is_text = name in ("method", "model", "settings", "scores x100", "machine")
            table.add_column(name, justify="left" if is_text else "right", no_wrap=number == 0)
        for row in here:
            share = _share(row.costs["trainable_params"], row.costs["total_params"])
            cells = [row.method, row.model, *([row.settings] if has_settings else []), _scores(row)]
            cells += ["" if row.delta is None else f"{100 * row.delta:+.1f}", ",".join(map(str, row.seeds)), share]
            cells += [_size(row.costs["adapter_bytes"]), _number(row.costs["train_seconds"], "{:.0f}")]
            cells += [_size(row.costs["train_peak_bytes"])] + ([row.device] if len(devices) > 1 else [])
            table.add_row(*map(_plain, cells), style=None if row.score is not None else "red")
        console.print(table)
    if len(devices) > 1:
        console.print("rows of different machines: their seconds and memory are not to be compared")


def _show_glue(console: Any, title: str, methods: dict[str, dict[str, float]]) -> None:
    from rich.table import Table

    table = Table(title=f"GLUE  ·  {_plain(title)}", title_justify="left", header_style="bold")
    table.add_column("method")
    for name in [*GLUE, "average"]:
        table.add_column(name, justify="right", no_wrap=True)
    for name, scores in methods.items():
        table.add_row(_plain(name), *_glue_cells(scores).values())
    console.print(table)
    missing = sorted({task for scores in methods.values() for task in missing_tasks(scores)}, key=GLUE.index)
    if missing:
        console.print(f"no average without all nine tasks: {', '.join(missing)} to go")


def _glue_cells(scores: dict[str, float]) -> dict[str, str]:
    average = glue_average(scores)
    cells = {task: f"{100 * scores[task]:.1f}" if task in scores else "–" for task in GLUE}
    return cells | {"average": "–" if average is None else f"{100 * average:.1f}"}


def _scores(row: Row) -> str:
    if not row.scores:
        return "none, see below" if row.problems else "labels hidden"
    return ", ".join(
        f"{_short(name)} {100 * entry.mean:.1f}" + ("" if entry.spread is None else f" ± {100 * entry.spread:.1f}")
        for name, entry in row.scores.items()
    )


def _short(name: str) -> str:
    return name.replace("matthews_correlation", "matthews").replace("accuracy", "acc")


def _flat(row: Row) -> dict[str, Any]:
    scores: dict[str, Any] = {"scores x100": _scores(row)}
    return {
        "board": row.board,
        "task": row.task,
        "model": row.model,
        "method": row.method,
        "settings": row.settings,
        "score": "" if row.score is None else f"{row.score:.4f}",
        **scores,
        "vs_full": "" if row.delta is None else f"{row.delta:+.4f}",
        "seeds": " ".join(map(str, row.seeds)),
        **{name: "" if value is None else round(value, 1) for name, value in row.costs.items()},
        "device": row.device,
        "problems": "; ".join(row.problems),
    }


def _csv(lines: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    if lines:
        writer = csv.DictWriter(out, list(lines[0]))
        writer.writeheader()
        writer.writerows({name: _safe(value) for name, value in line.items()} for line in lines)
    return out.getvalue()


def _safe(value: Any) -> Any:
    """Keep a spreadsheet from reading text of a run as a formula; signed numbers stay numbers."""
    text = str(value)
    is_number = text.lstrip("+-").replace(".", "", 1).isdigit()
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) and not is_number else value


def _markdown(lines: list[dict[str, Any]]) -> str:
    names = [name for name in lines[0] if name != "board" and any(str(line[name]) for line in lines)]
    head = f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n"
    return head + "".join(f"| {' | '.join(_cell(line[name]) for name in names)} |\n" for line in lines)


def _cell(value: Any) -> str:
    return _plain(str(value)).replace("|", "\\|").replace("<", "&lt;")


def _plain(text: str) -> str:
    """Keep text of a run from writing control characters or rich's markup."""
    return "".join(c if c.isprintable() else " " for c in text).replace("[", "(").replace("]", ")")


def _share(part: float | None, whole: float | None) -> str:
    if part is None or whole is None:
        return ""
    return f"{part / 1e6:.2f} M ({part / whole:.1%})"


def _size(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:.1f} MB"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
