"""The leaderboard as CSV, for a spreadsheet, Markdown and LaTeX."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from peftkit.leaderboard.board import Board
from peftkit.leaderboard.costs import TIMED, UNTIMED
from peftkit.leaderboard.judges import JUDGE_NOTE, judge_columns, judge_tables
from peftkit.leaderboard.language import NOTE, language_cells
from peftkit.leaderboard.rendering import (
    SPREAD,
    boards_of,
    entry_cells,
    figure,
    glue_cells,
    marks_of,
    metric_name,
    metrics_of,
    notes_of,
    plain,
    problems_of,
    records_cells,
    summary_sentences,
    tasks_of,
    without_constants,
)
from peftkit.leaderboard.runs import BoardEntry, GlueEntry
from peftkit.leaderboard.stats import GLUE, glue_entries
from peftkit.leaderboard.verdict import Comparison, Ranking, rank_tasks
from peftkit.paths import atomic_write

MARKDOWN = {c: f"\\{c}" for c in "\\|`*_[]#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", **{c: f"\\{c}" for c in "#$%&_{}"},
    **{c: f"{{{c}}}" for c in "[]*"},  # at the start of a line they would be arguments of the preceding line break
}  # fmt: skip


def write_tables(board: Board, folder: Path) -> None:
    """Write leaderboard.csv, comparisons.csv (tests), with a GLUE task glue.csv, and leaderboard.md.

    The CSV files are in the units of result.json; the Markdown has all entries, as the tables that `show` prints.
    """
    entries, verdict = board.entries, board.verdict()
    metrics = dict.fromkeys(name for entry in entries for name in entry.scores)
    lines = [
        _values(entry, group, metrics, verdict.detectable.get((entry.board, entry.task))) | by_judges
        for entry, group, by_judges in zip(entries, verdict.groups, judge_columns(entries), strict=True)
    ]
    _write_csv(lines, folder / "leaderboard.csv")
    _write_csv([_tested(entries, c) for c in verdict.comparisons], folder / "comparisons.csv")
    _write_csv([_glue_values(line) for line in glue_entries(entries)], folder / "glue.csv")
    with atomic_write(folder / "leaderboard.md") as part:
        part.write_text(_markdown(board), encoding="utf-8")


def _markdown(board: Board) -> str:
    """Return all entries as Markdown, with text from runs escaped."""
    entries, verdict = board.entries, board.verdict()
    glue = glue_entries(entries)
    text = f"# Leaderboard\n\nScores are times 100. {SPREAD}\n"
    for title, ranked in boards_of(entries, verdict.groups):
        marks, summaries = marks_of(ranked), summary_sentences(entries, verdict, title)
        text += f"\n## {_escaped(title)}\n"
        for same_task in tasks_of(ranked):
            task, metrics = same_task[0][0].task, {metric_name(name): name for name in metrics_of(same_task)}
            cells = without_constants([entry_cells(each, marks, metrics) for each in same_task])
            text += f"\n### {_escaped(task)}\n\n{_table(cells)}"
            text += f"\n{_escaped(summaries[task])}\n" if task in summaries else ""
        text += "".join(f"\n{_escaped(note)}\n" for note in notes_of(ranked, marks))
        preferred = f"### Preferred by a judge\n\n{JUDGE_NOTE}\n\n"  # above the table of the first judge
        tables = [
            ("### Tasks won, tied and lost", records_cells(verdict.records, title) if len(summaries) > 1 else []),
            (f"### Language, before and after\n\n{NOTE}", language_cells(entries, title)),
            *(
                (f"{'' if number else preferred}{_escaped(judge)}:", compared)
                for number, (judge, compared) in enumerate(judge_tables(entries, title))
            ),
            (
                f"### GLUE, {_escaped(title.removeprefix('glue, '))}",
                [glue_cells(line) | {"missing": ", ".join(line.missing)} for line in glue if line.board == title],
            ),
        ]
        text += "".join(f"\n{heading}\n\n{_table(lines)}" for heading, lines in tables if lines)
    for headline, lines in {"Notes": verdict.notes, **problems_of(board.runs)}.items():
        items = "".join(f"- {_escaped(line)}\n" for line in lines)
        text += f"\n## {_escaped(headline)}\n\n{items}" if items else ""
    return text


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


def _values(entry: BoardEntry, group: str, metrics: Iterable[str], detectable: float | None) -> dict[str, Any]:
    """Return the CSV values of an entry: plain numbers, in the units of result.json."""
    low, high = entry.interval or (None, None)
    trained, total = entry.costs.get("trainable_params"), entry.costs.get("total_params")
    scores = {
        f"{name}{suffix}": getattr(entry.scores.get(name), part, None)
        for name in metrics
        for part, suffix in (("mean", ""), ("spread", " spread"))
    }
    timed = {
        name: "; ".join(f"{costs[name]:.6g} ({device})" for device, costs in entry.timed.items() if name in costs)
        if len(entry.timed) > 1
        else next(iter(entry.timed.values()), {}).get(name)
        for name in TIMED
    }
    return {
        "board": entry.board, "suite": entry.suite, "task": entry.task, "model": entry.model, "method": entry.method,
        "settings": entry.settings, "score": entry.score, "group": group, "95 % low": low, "95 % high": high, **scores,
        "delta vs full": entry.delta, "minimum detectable difference": detectable, "n seeds": len(entry.seeds),
        "planned seeds": entry.planned, "learning-rate trials": entry.trials,
        "seeds": " ".join(map(str, entry.seeds)), "training examples": entry.examples.get("train"),
        **{name: entry.costs.get(name) for name in UNTIMED},
        "trainable share": trained / total if trained is not None and total else None, **timed,
        "device": "; ".join(entry.timed), "problems": "; ".join(entry.problems),
    }  # fmt: skip


def _write_csv(lines: Sequence[dict[str, Any]], file: Path) -> None:
    if not lines:
        file.unlink(missing_ok=True)  # written for an earlier board
        return
    with atomic_write(file) as part, part.open("w", encoding="utf-8", newline="") as out:
        table, header = csv.DictWriter(out, lines[0]), {name: name for name in lines[0]}
        table.writerows({name: _not_a_formula(value) for name, value in line.items()} for line in (header, *lines))


def _not_a_formula(value: Any) -> Any:
    """Return the value as text that no spreadsheet evaluates as a formula."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")) else text


def _table(lines: Sequence[dict[str, str]]) -> str:
    names = [name for name in lines[0] if not name or any(line[name] for line in lines)]
    head = f"| {' | '.join(map(_escaped, names))} |\n|{' --- |' * len(names)}\n"
    return head + "".join(f"| {' | '.join(_escaped(line[name]) for name in names)} |\n" for line in lines)


def write_latex(entries: Sequence[BoardEntry], groups: Sequence[str], file: Path) -> None:
    r"""Write a booktabs table for each board: mean and spread over seeds, letters of groups, the best in bold.

    The best is bold only where it differs significantly from every other entry of its task. Needs
    \usepackage{booktabs}; names in other scripts than Latin need XeLaTeX or LuaLaTeX and a font that has them.
    """
    boards = groupby(rank_tasks(entries, groups), key=lambda ranking: ranking.board)
    text = "% \\usepackage{booktabs}\n" + "".join(
        _latex_table(board, list(members), entries, groups) for board, members in boards
    )
    with atomic_write(file) as part:
        part.write_text(text, encoding="utf-8")


def _latex_table(board: str, members: Sequence[Ranking], entries: Sequence[BoardEntry], groups: Sequence[str]) -> str:
    lines: dict[str, dict[str, str]] = {}
    for ranking in members:
        is_sole_best = ranking.is_tested and len(ranking.top) == 1
        for number in [*ranking.ranked, *ranking.failed]:
            text = _latex_value(entries[number], groups[number], is_bold=is_sole_best and number == ranking.top[0])
            lines.setdefault(entries[number].label, {})[ranking.task] = text
    body = "".join(
        f"{_escaped(name, LATEX)} & {' & '.join(values.get(ranking.task, '--') for ranking in members)} \\\\\n"
        for name, values in lines.items()
    )
    letters = "Differences were not tested."
    if any(ranking.is_tested for ranking in members):
        letters = "Entries of a task that share a letter do not differ significantly."
    caption = f"{_escaped(board, LATEX)}. Scores times 100, mean $\\pm$ standard deviation over seeds. {letters}"
    return (
        f"\n\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n"
        f"\\begin{{tabular}}{{l{'r' * len(members)}}}\n\\toprule\n"
        f"Method & {' & '.join(_escaped(ranking.task, LATEX) for ranking in members)} \\\\\n\\midrule\n{body}"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def _latex_value(entry: BoardEntry, letters: str, is_bold: bool) -> str:
    if entry.score is None:
        return entry.without_score
    score, spread = figure(entry, entry.score), entry.spread
    shown = "" if spread is None else f" $\\pm$ {figure(entry, spread) if entry.greater_is_better else f'{spread:.2g}'}"
    mark = f"\\textsuperscript{{{_escaped(letters, LATEX)}}}" if letters else ""
    return (f"\\textbf{{{score}}}" if is_bold else score) + shown + mark


def _escaped(text: str, signs: Mapping[str, str] = MARKDOWN) -> str:
    return "".join(signs.get(c, c) for c in plain(text))
