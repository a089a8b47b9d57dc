"""Training losses of runs, sampled to what fits in a page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from peftkit.leaderboard.archive import read_text
from peftkit.leaderboard.runs import BoardEntry

POINTS = 60  # of a curve
RUNS = 1000  # of a page

Curve = tuple[int, list[int], list[float]]  # seed, steps, losses


def curves_of(entries: Sequence[BoardEntry]) -> tuple[dict[int, list[Curve]], str | None]:
    """Return the training losses of each entry's runs, the best of each task first, and a note on what is left out."""
    ranks: dict[tuple[str, str], int] = {}
    order = []
    for number, entry in enumerate(entries):  # entries are best first within a task
        rank = ranks[entry.board, entry.task] = ranks.get((entry.board, entry.task), -1) + 1
        order.append((rank, number))
    curves_by_entry: dict[int, list[Curve]] = {}
    room = RUNS
    for _, number in sorted(order):
        runs = entries[number].scored_runs
        if len(runs) > room:
            break
        curves = [(result.seed, *points) for result in runs if (points := _losses(result.folder))]
        if curves:
            curves_by_entry[number] = sorted(curves)
            room -= len(curves)
    finished = sum(len(entry.scored_runs) for entry in entries)
    note = None
    if finished > RUNS:
        note = f"Learning curves: only the best entries of each task have them, {RUNS - room} of {finished} runs."
    return curves_by_entry, note


def _losses(folder: Path) -> tuple[list[int], list[float]] | None:
    """Return steps and losses, evenly sampled; None where the log has fewer than two."""
    points: list[tuple[int, float]] = []
    try:
        lines = (read_text(folder, "log.jsonl") or "").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        try:
            entry = json.loads(line)
            step, loss = int(entry["step"]), float(entry["loss"])
        except (ValueError, KeyError, TypeError):  # another kind of line, or one truncated by a kill
            continue
        if math.isfinite(loss):
            points.append((step, float(f"{loss:.4g}")))
    if len(points) < 2:
        return None
    every = (len(points) - 1) / (POINTS - 1)
    if every > 1:
        points = [points[round(number * every)] for number in range(POINTS)]
    return [step for step, _ in points], [loss for _, loss in points]
