"""The leaderboard as CSV, for a spreadsheet, and Markdown."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftkit.data.cells import is_formula
from peftkit.leaderboard.board import Board
from peftkit.leaderboard.costs import TIMED, UNTIMED
from peftkit.leaderboard.domains import NOTE as DOMAINS_NOTE
from peftkit.leaderboard.domains import domain_cells, domain_summary
from peftkit.leaderboard.glue import glue_entries
from peftkit.leaderboard.judges import JUDGE_NOTE, judge_columns, judge_tables
from peftkit.leaderboard.language import NOTE, language_cells
from peftkit.leaderboard.rendering import (
    FLAG,
    SPREAD,
    boards_of,
    entry_cells,
    glue_cells,
    marks_of,
    metric_headings,
    notes_of,
    plain,
    problems_of,
    records_cells,
    score_name,
    tasks_of,
    without_constants,
)
from peftkit.leaderboard.runs import BoardEntry, GlueEntry
from peftkit.leaderboard.sentences import summary_sentences
from peftkit.leaderboard.stats import GLUE, fold_text
from peftkit.leaderboard.verdict import BETTER, NOT_BETTER, NOT_TESTED, Comparison
from peftkit.paths import atomic_write

MARKDOWN = {c: f"\\{c}" for c in "\\|`*_[]#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
FLAGS = {BETTER: "better than majority", NOT_BETTER: FLAG, NOT_TESTED: "not tested against majority"}


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
    families = {"methods": verdict.comparisons, "against baselines": verdict.against_baseline}
    tests = [_tested(entries, c) | {"family": name} for name, family in families.items() for c in family]
    _write_csv(tests, folder / "comparisons.csv")
    glue = glue_entries(entries, verdict.against_baseline)
    _write_csv([_glue_values(line) for line in glue], folder / "glue.csv")
    with atomic_write(folder / "leaderboard.md") as part:
        part.write_text(_markdown(board), encoding="utf-8")


def _markdown(board: Board) -> str:
    """Return all entries as Markdown, with text from runs escaped."""
    entries, verdict = board.entries, board.verdict()
    glue = glue_entries(entries, verdict.against_baseline)
    text = f"# Leaderboard\n\nScores are times 100. {SPREAD}\n"
    for title, ranked in boards_of(entries, verdict.groups):
        marks, summaries = marks_of(ranked), summary_sentences(entries, verdict, title)
        text += f"\n## {escaped(title)}\n"
        for same_task in tasks_of(ranked):
            task, metrics = same_task[0][0].task, metric_headings(same_task)
            cells = without_constants([entry_cells(each, marks, metrics) for each in same_task])
            text += f"\n### {escaped(task)}\n\n{_table(cells)}"
            text += f"\n{escaped(summaries[task])}\n" if task in summaries else ""
        text += "".join(f"\n{escaped(note)}\n" for note in notes_of(ranked, marks))
        preferred = f"### Preferred by a judge\n\n{JUDGE_NOTE}\n\n"  # above the table of the first judge
        tables = [
            ("### Tasks won, tied and lost", records_cells(verdict.records, title) if len(summaries) > 1 else []),
            (f"### Language, before and after\n\n{NOTE}", language_cells(entries, title)),
            (f"### Scores by domain\n\n{DOMAINS_NOTE}", domain_cells(entries, title)),
            *(
                (f"{'' if number else preferred}{escaped(judge)}:", compared)
                for number, (judge, compared) in enumerate(judge_tables(entries, title))
            ),
            (
                f"### GLUE, {escaped(title.removeprefix('glue, '))}",
                [glue_cells(line) | {"missing": ", ".join(line.missing)} for line in glue if line.board == title],
            ),
        ]
        text += "".join(f"\n{heading}\n\n{_table(lines)}" for heading, lines in tables if lines)
    for headline, lines in {"Notes": verdict.notes, **problems_of(board.runs)}.items():
        items = "".join(f"- {escaped(line)}\n" for line in lines)
        text += f"\n## {escaped(headline)}\n\n{items}" if items else ""
    return text


def _tested(entries: Sequence[BoardEntry], comparison: Comparison) -> dict[str, Any]:
    first, second = entries[comparison.first], entries[comparison.second]
    names = {
        "board": first.board, "task": first.task, "first": first.name, "first model": first.model,
        "second": second.name, "second model": second.model,
    }  # fmt: skip
    return names | {name: value for name, value in vars(comparison).items() if name not in ("first", "second")}


def _glue_values(line: GlueEntry) -> dict[str, Any]:
    return {
        "board": line.board, "method": line.method, "model": line.model, "settings": line.settings,
        **{task: line.scores.get(task) for task in GLUE},
        "average": line.average, "average spread": line.spread, "average vs. majority": line.against_baseline,
        "missing": ", ".join(line.missing),
    }  # fmt: skip


def _values(entry: BoardEntry, group: str, metrics: Iterable[str], detectable: float | str | None) -> dict[str, Any]:
    """Return the CSV values of an entry: plain numbers, in the units of result.json."""
    low, high = entry.interval or (None, None)
    domains = None if entry.is_baseline else domain_summary([entry])
    seeds = [] if entry.is_baseline else entry.seeds
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
        "settings": entry.settings, "baseline": entry.is_baseline, "score": entry.score,
        "score is": score_name(entry) if entry.scores else None, "vs. majority": FLAGS.get(entry.against_baseline),
        "group": group, "95 % low": low, "95 % high": high, **scores,
        "worst domain": domains and domains.worst.mean, "average of domains": domains and domains.average.mean,
        "delta vs full": entry.delta, "minimum detectable difference": detectable,
        "n seeds": len(seeds), "planned seeds": 0 if entry.is_baseline else entry.planned,
        "trials": entry.trials, "examples seen in trials": entry.trial_examples, "folds": fold_text(entry),
        "seeds": " ".join(map(str, seeds)), "training examples": entry.examples.get("train"),
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
    return f"'{text}" if is_formula(text) else text


def _table(lines: Sequence[dict[str, str]]) -> str:
    names = [name for name in lines[0] if not name or any(line[name] for line in lines)]
    head = f"| {' | '.join(map(escaped, names))} |\n|{' --- |' * len(names)}\n"
    return head + "".join(f"| {' | '.join(escaped(line[name]) for name in names)} |\n" for line in lines)


def escaped(text: str, signs: Mapping[str, str] = MARKDOWN) -> str:
    """Return a text of a run for Markdown, or for another language with these signs."""
    return "".join(signs.get(c, c) for c in plain(text))
