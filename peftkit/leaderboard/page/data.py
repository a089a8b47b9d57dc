"""The data of the page: boards, entries with their runs, comparisons and failed runs as plain values."""

import json
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from peftkit.config.record_schema import MAX_COUNT, MAX_NUMBER
from peftkit.leaderboard.archive import read_text
from peftkit.leaderboard.board import Board
from peftkit.leaderboard.costs import COSTS
from peftkit.leaderboard.domains import NOTE as DOMAINS_NOTE
from peftkit.leaderboard.domains import domain_cells
from peftkit.leaderboard.judges import JUDGE_NOTE, judge_tables
from peftkit.leaderboard.language import NOTE, language_cells
from peftkit.leaderboard.letters import shades
from peftkit.leaderboard.rendering import baseline_text, score_name
from peftkit.leaderboard.runs import BoardEntry, BoardRun, UnreadableRun
from peftkit.leaderboard.sentences import headlines
from peftkit.leaderboard.stats import fold_text
from peftkit.leaderboard.verdict import rank_tasks

AUDIT_KEYS = ("truncated", "dropped", "label_counts")  # keys of an audit that are shown
POINTS = 60  # per learning curve, at most
RUNS = 1000  # with a learning curve, at most
MAX_COMPARISONS = 20_000  # of more, those with the best entry or the reference are kept


Curve = tuple[int, list[int], list[float]]  # seed, steps, losses


def page_data(board: Board, command: str = "") -> dict[str, Any]:
    """Return the data of the page: boards, entries with their runs, comparisons, failed runs, and notes.

    Args:
        command: the command that wrote the page, shown in its footer.
    """
    verdict = board.verdict()
    curves, curve_note = _curves(board.entries)
    comparisons, comparison_note = _comparisons(board)
    rankings = rank_tasks(board.entries, verdict.groups)
    failed = [run for run in board.runs if run.problem and not run.is_skipped]
    top = {number for ranking in rankings for number in ranking.top}
    shade = {
        number: value
        for each in rankings
        for number, value in zip(
            each.ranked,
            shades([verdict.groups[n] for n in each.ranked], [board.entries[n].score or 0.0 for n in each.ranked]),
            strict=True,
        )
    }
    return {
        "boards": _boards(board),
        "entries": [
            {
                **_entry(entry),
                "letters": letters,
                "top": number in top,
                "shade": shade.get(number, 0),
                "curves": curves.get(number, []),
            }
            for number, (entry, letters) in enumerate(zip(board.entries, verdict.groups, strict=True))
        ],
        "costs": {name: [cost.label, cost.unit, cost.higher_is_better] for name, cost in COSTS.items()},
        "comparisons": comparisons,
        "failed": [_failure(each) for each in sorted(failed, key=lambda run: run.is_unfinished)],
        "runs": len(board.runs),
        "notes": [*verdict.notes, *filter(None, [curve_note, comparison_note])],
        "language_note": NOTE,
        "domains_note": DOMAINS_NOTE,
        "judged_note": JUDGE_NOTE,
        "command": command,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _boards(board: Board) -> list[dict[str, Any]]:
    entries, verdict = board.entries, board.verdict()
    return [
        {
            "title": title,
            "offline": title.startswith("OFFLINE"),
            "headlines": lines,
            "language": language_cells(entries, title),
            "domains": domain_cells(entries, title),
            "judged": judge_tables(entries, title),
            "records": [
                [*names, *record] for (board_title, *names), record in verdict.records.items() if board_title == title
            ],
            "models": sorted({entry.model for entry in entries if entry.board == title and not entry.is_baseline}),
            "baselines": baseline_text(entry for entry in entries if entry.board == title).strip(),
        }
        for title, lines in headlines(entries, verdict.groups, verdict.detectable, verdict.comparisons).items()
    ]


def _entry(entry: BoardEntry) -> dict[str, Any]:
    low, high = entry.interval or (None, None)
    shared = next(iter(entry.scored_runs), entry.runs[0])  # the first finished run has what seeds share
    return {
        "board": entry.board, "task": entry.task, "model": entry.model, "modelName": entry.model_label,
        "method": entry.method, "baseline": entry.is_baseline, "versus": entry.against_baseline,
        "of": score_name(entry) if entry.scores else "",
        "settings": entry.settings, "label": entry.label, "up": entry.greater_is_better, "score": entry.score,
        "low": low, "high": high, "spread": entry.spread,
        "metrics": [[name, each.mean, each.spread] for name, each in entry.scores.items()],
        "delta": entry.delta, "reference": entry.is_reference, "planned": entry.planned,
        "seeds": [] if entry.is_baseline else entry.seeds,
        "trials": entry.trials, "folds": fold_text(entry), "costs": entry.costs,
        "timed": entry.timed, "examples": entry.examples, "problems": entry.problems, "without": entry.without_score,
        "runs": [] if entry.is_baseline else [_run(result, entry) for result in entry.runs],
        "audit": {name: shared.audit[name] for name in AUDIT_KEYS if shared.audit.get(name)},
        "sources": {
            name: {key: value for key, value in source.items() if value is not None}
            for name, source in shared.audit["sources"].items()
            if isinstance(source, Mapping) and (name == "data" or not entry.is_baseline)
        },
        **{name: getattr(shared, name) for name in ("search", "merge", "forgetting", "gates", "versions")},
    }  # fmt: skip


def _run(result: BoardRun, entry: BoardEntry) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "score": entry.by_seed.get(result.seed) if result.problem is None else None,
        "scores": {name: score["value"] for name, score in result.scores.items()},
        "problem": result.problem,
        "command": f"python -m peftkit {shlex.join(result.overrides)}" if result.overrides else None,
        "folder": str(result.folder),
        "device": result.device,
        "started": result.started,
    }


def _comparisons(board: Board) -> tuple[list[list[Any]], str | None]:
    """Return comparisons as lists, in the order of details.js, and a note on what is omitted."""
    entries, verdict = board.entries, board.verdict()
    kept, note = verdict.comparisons, None
    if len(kept) > MAX_COMPARISONS:
        best = {ranking.ranked[0] for ranking in rank_tasks(entries, verdict.groups) if ranking.ranked}
        anchors = best | {number for number, entry in enumerate(entries) if entry.is_reference}
        kept = [each for each in kept if anchors & {each.first, each.second}][:MAX_COMPARISONS]
        note = (
            f"Of {len(verdict.comparisons)} comparisons, the page has the {len(kept)} with a task's best entry "
            "or with full fine-tuning."
        )
    return [
        [c.first, c.second, c.difference, c.low, c.high, c.p, c.p_holm, c.differs, c.test, c.examples, c.seeds]
        for c in [*kept, *verdict.against_baseline]
    ], note


def _failure(result: BoardRun | UnreadableRun) -> dict[str, Any]:
    return {
        **{name: getattr(result, name, "") for name in ("task", "model", "method")},
        "seed": getattr(result, "seed", None),
        "problem": result.problem,
        "folder": str(result.folder),
        "unfinished": result.is_unfinished,
    }


def _curves(entries: Sequence[BoardEntry]) -> tuple[dict[int, list[Curve]], str | None]:
    """Return the training losses of each entry's runs, the best of each task first, and a note on what is omitted."""
    ranks: dict[tuple[str, str], Iterator[int]] = defaultdict(count)  # entries are best first within a task
    order = sorted((next(ranks[entry.board, entry.task]), number) for number, entry in enumerate(entries))
    curves: dict[int, list[Curve]] = {}
    remaining = RUNS
    for _, number in order:
        runs = [] if entries[number].is_baseline else entries[number].scored_runs
        if len(runs) > remaining:
            break
        curves[number] = sorted((run.seed, *points) for run in runs if (points := _losses(run.folder)))
        remaining -= len(curves[number])
    finished = sum(len(entry.scored_runs) for entry in entries if not entry.is_baseline)
    note = f"Learning curves: only the best entries of each task have them, {RUNS - remaining} of {finished} runs."
    return curves, note if finished > RUNS else None


def _losses(folder: Path) -> tuple[list[int], list[float]] | None:
    """Return steps and losses, evenly sampled; None where the log has fewer than two."""
    lines: list[str] = []
    with suppress(OSError, ValueError, KeyError):
        lines = (read_text(folder, "log.jsonl") or "").splitlines()
    points: list[tuple[int, float]] = []
    for line in lines:
        # another kind of line, or one truncated by a kill
        with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
            entry = json.loads(line)
            points.append((int(entry["step"]), float(f"{float(entry['loss']):.4g}")))
    points = [(step, loss) for step, loss in points if abs(loss) < MAX_NUMBER and 0 <= step < MAX_COUNT]
    if len(points) < 2:
        return None
    every = (len(points) - 1) / (POINTS - 1)
    if every > 1:
        points = [points[round(number * every)] for number in range(POINTS)]
    return [step for step, _ in points], [loss for _, loss in points]
