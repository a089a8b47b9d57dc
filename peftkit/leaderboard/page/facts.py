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

COMPARED = 20_000  # comparisons of a page at most; of more, those with the best and the reference are kept


def facts(
    entries: Sequence[BoardEntry],
    results: Sequence[BoardRun | UnreadableRun],
    verdict: Verdict | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Return the data of the page: boards, entries with their runs, comparisons, failed runs, and what is left out.

    Args:
        entries: what `board_entries(results)` returns; the verdict refers to them by position.
        command: the command that wrote the page, shown in its footer.
    """
    groups = verdict.groups if verdict else [""] * len(entries)
    curves, curve_note = curves_of(entries)
    comparisons, comparison_note = _comparisons(entries, groups, verdict)
    top = {number for cell in cells(entries, groups) for number in cell.top}
    return {
        "boards": _boards(entries, groups, verdict, results),
        "entries": [
            {**_entry(entry), "letters": letters, "top": number in top, "curves": curves.get(number, [])}
            for number, (entry, letters) in enumerate(zip(entries, groups, strict=True))
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
    entries: Sequence[BoardEntry],
    groups: Sequence[str],
    verdict: Verdict | None,
    results: Sequence[BoardRun | UnreadableRun],
) -> list[dict[str, Any]]:
    sentences = headlines(entries, groups, verdict.detectable if verdict else {})
    found = []
    for title, lines in sentences.items():
        records = {key[1:]: record for key, record in (verdict.records if verdict else {}).items() if key[0] == title}
        found.append(
            {
                "title": title,
                "offline": title.startswith("OFFLINE"),
                "headlines": lines,
                "language": language_cells(entries, results, title),
                "judged": [[judge, lines] for judge, lines in judge_tables(entries, results, title)],
                "records": [[*names, *record] for names, record in records.items()],
                "models": sorted({entry.model for entry in entries if entry.board == title}),
            }
        )
    return found


def _entry(entry: BoardEntry) -> dict[str, Any]:
    low, high = entry.interval or (None, None)
    values = list(entry.by_seed.values())
    shown = next(iter(entry.scored_runs), entry.runs[0])
    return {
        "board": entry.board, "task": entry.task, "model": entry.model, "method": entry.method,
        "settings": entry.settings, "label": entry.name, "up": entry.is_up, "score": entry.score,
        "low": low, "high": high, "spread": stdev(values) if len(values) > 1 else None,
        "metrics": [[name, each.mean, each.spread] for name, each in entry.scores.items()],
        "delta": entry.delta, "reference": entry.is_reference, "planned": entry.planned, "seeds": entry.seeds,
        "trials": entry.trials,
        "costs": {name: value for name, value in entry.costs.items() if name not in TIMED},
        "timed": entry.timed, "examples": entry.examples, "problems": entry.problems, "without": entry.without_score,
        "runs": [_run(result, entry) for result in entry.runs],
        **_shared(shown),
    }  # fmt: skip


def _run(result: BoardRun, entry: BoardEntry) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "score": entry.by_seed.get(result.seed) if result.problem is None else None,
        "scores": {name: score["value"] for name, score in result.scores.items()},
        "problem": result.problem,
        "command": command_of(result),
        "folder": str(result.folder),
        "device": result.device,
        "started": result.started,
    }


def command_of(result: BoardRun) -> str | None:
    """Return the command that repeats the run, quoted for a shell; None where no overrides are recorded."""
    return f"python -m peftkit {shlex.join(result.overrides)}" if result.overrides else None


def _shared(result: BoardRun) -> dict[str, Any]:
    """Return what the seeds of an entry share, from its first finished run."""
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
    entries: Sequence[BoardEntry], groups: Sequence[str], verdict: Verdict | None
) -> tuple[list[list[Any]], str | None]:
    """Return comparisons as lists, in the order of details.js, and a note on what is left out."""
    if verdict is None:
        return [], None
    kept, note = verdict.comparisons, None
    if len(kept) > COMPARED:
        best = {cell.ranked[0] for cell in cells(entries, groups) if cell.ranked}
        anchors = best | {number for number, entry in enumerate(entries) if entry.is_reference}
        kept = [each for each in kept if anchors & {each.first, each.second}][:COMPARED]
        note = (
            f"Of {len(verdict.comparisons)} comparisons, the page has the {len(kept)} with a task's best entry "
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
