"""The data of the page: boards, entries with their runs, comparisons and failed runs as plain values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from statistics import stdev
from typing import Any

from peftkit.leaderboard.entries import BoardEntry
from peftkit.leaderboard.headlines import headlines
from peftkit.leaderboard.judges import JUDGE_NOTE, judge_tables
from peftkit.leaderboard.language import NOTE, language_cells
from peftkit.leaderboard.page.curves import curves_of
from peftkit.leaderboard.runs import TIMED, BoardRun, UnreadableRun
from peftkit.leaderboard.ties import cells
from peftkit.leaderboard.verdict import Verdict

COMPARED = 20_000  # comparisons that a page can hold; of more, those with the best and the reference are kept


def facts(
    rows: Sequence[BoardEntry],
    results: Sequence[BoardRun | UnreadableRun],
    verdict: Verdict | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Return what the page shows: boards, rows with their runs, comparisons, failed runs, and what was left out.

    Args:
        rows: what `board(results)` returns; the verdict speaks of them by position.
        command: what wrote the page, shown at its foot.
    """
    groups = verdict.groups if verdict else [""] * len(rows)
    curves, curve_note = curves_of(rows)
    comparisons, comparison_note = _comparisons(rows, groups, verdict)
    top = {number for cell in cells(rows, groups) for number in cell.top}
    return {
        "boards": _boards(rows, groups, verdict, results),
        "rows": [
            {**_row(row), "letters": letters, "top": number in top, "curves": curves.get(number, [])}
            for number, (row, letters) in enumerate(zip(rows, groups, strict=True))
        ],
        "comparisons": comparisons,
        "failed": [_failure(each) for each in sorted(results, key=lambda r: r.is_unfinished) if each.problem],
        "runs": len(results),
        "notes": [*(verdict.notes if verdict else []), *filter(None, [curve_note, comparison_note])],
        "language_note": NOTE,
        "judged_note": JUDGE_NOTE,
        "tested": verdict is not None,
        "command": command,
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _boards(
    rows: Sequence[BoardEntry],
    groups: Sequence[str],
    verdict: Verdict | None,
    results: Sequence[BoardRun | UnreadableRun],
) -> list[dict[str, Any]]:
    sentences = headlines(rows, groups, verdict.detectable if verdict else {})
    found = []
    for title, lines in sentences.items():
        records = {key[1:]: record for key, record in (verdict.records if verdict else {}).items() if key[0] == title}
        found.append(
            {
                "title": title,
                "offline": title.startswith("OFFLINE"),
                "headlines": lines,
                "language": language_cells(rows, results, title),
                "judged": [[judge, lines] for judge, lines in judge_tables(rows, results, title)],
                "records": [[*names, *record] for names, record in records.items()],
                "models": sorted({row.model for row in rows if row.board == title}),
            }
        )
    return found


def _row(row: BoardEntry) -> dict[str, Any]:
    low, high = row.interval or (None, None)
    values = list(row.by_seed.values())
    shown = next(iter(row.scored_runs), row.runs[0])
    return {
        "board": row.board, "task": row.task, "model": row.model, "method": row.method, "settings": row.settings,
        "label": row.name, "up": row.is_up, "score": row.score,
        "low": low, "high": high, "spread": stdev(values) if len(values) > 1 else None,
        "metrics": [[name, each.mean, each.spread] for name, each in row.scores.items()],
        "delta": row.delta, "reference": row.is_reference, "planned": row.planned, "seeds": row.seeds,
        "trials": row.trials,
        "costs": {name: value for name, value in row.costs.items() if name not in TIMED},
        "timed": row.timed, "rows": row.examples, "problems": row.problems, "without": row.without_score,
        "runs": [_run(result, row) for result in row.runs],
        **_shared(shown),
    }  # fmt: skip


def _run(result: BoardRun, row: BoardEntry) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "score": row.by_seed.get(result.seed) if result.problem is None else None,
        "scores": {name: entry["value"] for name, entry in result.scores.items()},
        "problem": result.problem,
        "command": command_of(result),
        "folder": str(result.folder),
        "device": result.device,
        "started": result.started,
    }


def command_of(result: BoardRun) -> str | None:
    """Return the line that makes the run again, quoted for a shell; None where a run did not keep its words."""
    return f"python -m peftkit {shlex.join(result.overrides)}" if result.overrides else None


def _shared(result: BoardRun) -> dict[str, Any]:
    """Return what the seeds of a row have in common, as its first finished run has it."""
    audit = result.audit
    sources = audit.get("sources") or {}
    return {
        "audit": {name: audit[name] for name in ("truncated", "dropped", "label_counts") if audit.get(name)},
        "sources": {
            name: {key: value for key, value in source.items() if value is not None}
            for name, source in sources.items()
            if isinstance(source, Mapping)
        },
        "search": result.search,
        "merge": result.merge,
        "forgetting": result.forgetting,
        "gates": result.gates,
        "versions": result.versions,
    }


def _comparisons(
    rows: Sequence[BoardEntry], groups: Sequence[str], verdict: Verdict | None
) -> tuple[list[list[Any]], str | None]:
    """Return comparisons as lists, in the order that details.js reads them, and what was left out."""
    if verdict is None:
        return [], None
    kept, note = verdict.comparisons, None
    if len(kept) > COMPARED:
        best = {cell.ranked[0] for cell in cells(rows, groups) if cell.ranked}
        anchors = best | {number for number, row in enumerate(rows) if row.is_reference}
        kept = [each for each in kept if anchors & {each.first, each.second}][:COMPARED]
        note = (
            f"Of {len(verdict.comparisons)} comparisons the page has the {len(kept)} with a task's best entry "
            "or with full fine-tuning."
        )
    return [
        [c.first, c.second, c.difference, c.low, c.high, c.p, c.p_holm, c.differs, c.test, c.examples, c.seeds]
        for c in kept
    ], note


def _failure(result: BoardRun | UnreadableRun) -> dict[str, Any]:
    found: dict[str, Any] = {
        "task": "",
        "model": "",
        "method": "",
        "seed": None,
        "problem": result.problem,
        "folder": str(result.folder),
        "unfinished": result.is_unfinished,
    }
    if isinstance(result, BoardRun):
        found |= {"task": result.task, "model": result.model, "method": result.method, "seed": result.seed}
    return found
