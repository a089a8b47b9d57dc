"""The leaderboard as CSV, for a spreadsheet, and Markdown."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peftkit.leaderboard.cells import (
    SPREAD,
    Ranked,
    boards_of,
    cells_of,
    glue_cells,
    marks_of,
    metrics_of,
    notes_of,
    plain,
    problems_of,
    records_cells,
    tasks_of,
    without_constants,
)
from peftkit.leaderboard.entries import BoardEntry, GlueEntry, Summary
from peftkit.leaderboard.headlines import sentences
from peftkit.leaderboard.judges import JUDGE_NOTE, judge_columns, judge_tables
from peftkit.leaderboard.language import NOTE, language_cells
from peftkit.leaderboard.runs import COMPOSED, COSTS, TIMED, BoardRun, UnreadableRun
from peftkit.leaderboard.stats import GLUE, glue_entries
from peftkit.leaderboard.verdict import Comparison, Verdict, judged

MARKDOWN = {c: f"\\{c}" for c in "\\|`*_[]#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def write_tables(
    results: Sequence[BoardRun | UnreadableRun], folder: Path, known: tuple[list[BoardEntry], Verdict] | None = None
) -> None:
    """Write leaderboard.csv, comparisons.csv, glue.csv and leaderboard.md; `known` is `judged(results)` if computed."""
    folder.mkdir(parents=True, exist_ok=True)
    known = known or judged(results)
    write_csv(results, folder, known)
    write_markdown(results, folder / "leaderboard.md", known)


def write_csv(
    results: Sequence[BoardRun | UnreadableRun], folder: Path, known: tuple[list[BoardEntry], Verdict] | None = None
) -> None:
    """Write leaderboard.csv, comparisons.csv (tests) and, with a GLUE task, glue.csv, in the units of result.json."""
    entries, verdict = known or judged(results)
    metrics = list(dict.fromkeys(name for entry in entries for name in entry.scores))
    lines = [
        _values((entry, group), metrics, verdict.detectable.get((entry.board, entry.task))) | by_judges
        for entry, group, by_judges in zip(entries, verdict.groups, judge_columns(entries, results), strict=True)
    ]
    _write_csv(lines, folder / "leaderboard.csv")
    _write_csv([_tested(entries, c) for c in verdict.comparisons], folder / "comparisons.csv")
    _write_csv([_glue_values(line) for line in glue_entries(entries)], folder / "glue.csv")


def write_markdown(
    results: Sequence[BoardRun | UnreadableRun], file: Path, known: tuple[list[BoardEntry], Verdict] | None = None
) -> None:
    """Write all entries as the tables that `show` prints, with text from runs escaped."""
    entries, verdict = known or judged(results)
    lines = glue_entries(entries)
    text = f"# Leaderboard\n\nScores are times 100. {SPREAD}\n"
    for title, ranked in boards_of(entries, verdict.groups):
        text += f"\n## {_escaped(title)}\n"
        marks, summaries = marks_of(ranked), sentences(entries, verdict, title)
        for same_task in tasks_of(ranked):
            task = same_task[0][0].task
            cells = without_constants([cells_of(each, marks, metrics_of(same_task)) for each in same_task])
            text += f"\n### {_escaped(task)}\n\n" + _markdown(cells)
            text += f"\n{_escaped(summaries[task])}\n" if task in summaries else ""
        text += "".join(f"\n{_escaped(note)}\n" for note in notes_of(ranked, marks))
        if len(summaries) > 1:
            text += f"\n### Tasks won, tied and lost\n\n{_markdown(records_cells(verdict.records, title))}"
        if changes := language_cells(entries, results, title):
            text += f"\n### Language, before and after\n\n{NOTE}\n\n{_markdown(changes)}"
        if judges := judge_tables(entries, results, title):
            text += f"\n### Preferred by a judge\n\n{JUDGE_NOTE}\n"
        for judge, compared in judges:
            text += f"\n{_escaped(judge)}:\n\n{_markdown(compared)}"
        if board_lines := [line for line in lines if line.board == title]:
            text += f"\n### GLUE, {_escaped(title.removeprefix('glue, '))}\n\n"
            text += _markdown([glue_cells(line) | {"missing": ", ".join(line.missing)} for line in board_lines])
    if verdict.notes:
        text += "\n## Notes\n\n" + "".join(f"- {_escaped(note)}\n" for note in verdict.notes)
    for headline, problems in problems_of(results).items():
        text += f"\n## {_escaped(headline)}\n\n" + "".join(f"- {_escaped(line)}\n" for line in problems)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _tested(entries: Sequence[BoardEntry], comparison: Comparison) -> dict[str, Any]:
    first, second = entries[comparison.first], entries[comparison.second]
    names = {
        "board": first.board, "task": first.task, "first": first.name, "first model": first.model,
        "second": second.name, "second model": second.model,
    }  # fmt: skip
    return names | {name: value for name, value in asdict(comparison).items() if name not in ("first", "second")}


def _glue_values(line: GlueEntry) -> dict[str, Any]:
    return {
        "board": line.board, "method": line.method, "model": line.model, "settings": line.settings,
        **{task: line.scores.get(task) for task in GLUE},
        "average": line.average, "average spread": line.spread, "missing": ", ".join(line.missing),
    }  # fmt: skip


def _values(ranked: Ranked, metrics: Sequence[str], detectable: float | None) -> dict[str, Any]:
    """Return the CSV values of an entry: plain numbers, in the units of result.json."""
    entry, group = ranked
    low, high = entry.interval or (None, None)
    blank = Summary(float("nan"), None, 0)
    scores: dict[str, Any] = {}
    for name in metrics:
        summary = entry.scores.get(name, blank)
        scores |= {name: summary.mean if summary.n else None, f"{name} spread": summary.spread}
    trained, total = entry.costs.get("trainable_params"), entry.costs.get("total_params")
    costs = {name: entry.costs.get(name) for name in COSTS if name not in TIMED}
    timed = {
        name: "; ".join(f"{costs[name]:.6g} ({device})" for device, costs in entry.timed.items() if name in costs)
        if len(entry.timed) > 1
        else next(iter(entry.timed.values()), {}).get(name)
        for name in (*TIMED, *COMPOSED)
    }
    return {
        "board": entry.board, "suite": entry.suite, "task": entry.task, "model": entry.model, "method": entry.method,
        "settings": entry.settings, "score": entry.score, "group": group, "95 % low": low, "95 % high": high, **scores,
        "delta vs full": entry.delta, "minimum detectable difference": detectable, "n seeds": len(entry.seeds),
        "planned seeds": entry.planned, "learning-rate trials": entry.trials,
        "seeds": " ".join(map(str, entry.seeds)), "training examples": entry.examples.get("train"), **costs,
        "trainable share": trained / total if trained is not None and total else None, **timed,
        "device": "; ".join(entry.timed), "problems": "; ".join(entry.problems),
    }  # fmt: skip


def _write_csv(lines: Sequence[dict[str, Any]], file: Path) -> None:
    if not lines:
        file.unlink(missing_ok=True)  # of an earlier board
        return
    with file.open("w", encoding="utf-8", newline="") as out:
        table = csv.DictWriter(out, list(lines[0]))
        header = {name: name for name in lines[0]}
        table.writerows({name: _harmless(value) for name, value in line.items()} for line in (header, *lines))


def _harmless(value: Any) -> Any:
    """Return the value as text that no spreadsheet evaluates as a formula."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")) else text


def _markdown(lines: Sequence[dict[str, str]]) -> str:
    names = [name for name in lines[0] if not name or any(line[name] for line in lines)]
    head = f"| {' | '.join(map(_escaped, names))} |\n|{' --- |' * len(names)}\n"
    return head + "".join(f"| {' | '.join(_escaped(line[name]) for name in names)} |\n" for line in lines)


def _escaped(text: str) -> str:
    return "".join(MARKDOWN.get(c, c) for c in plain(text))
