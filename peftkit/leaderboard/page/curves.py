"""Training losses of runs, sampled to what fits in a page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from peftkit.leaderboard.archive import read_text
from peftkit.leaderboard.entries import BoardEntry

POINTS = 60  # a curve
RUNS = 1000  # a page

Curve = tuple[int, list[int], list[float]]  # seed, steps, losses


def curves_of(rows: Sequence[BoardEntry]) -> tuple[dict[int, list[Curve]], str | None]:
    """Return the training losses of each row's runs, the best rows of every task first, and what had no room."""
    ranks: dict[tuple[str, str], int] = {}
    order = []
    for number, row in enumerate(rows):  # rows are best first within a task
        rank = ranks[row.board, row.task] = ranks.get((row.board, row.task), -1) + 1
        order.append((rank, number))
    found: dict[int, list[Curve]] = {}
    room = RUNS
    for _, number in sorted(order):
        runs = rows[number].scored_runs
        if len(runs) > room:
            break
        curves = [(result.seed, *points) for result in runs if (points := _losses(result.folder))]
        if curves:
            found[number] = sorted(curves)
            room -= len(curves)
    finished = sum(len(row.scored_runs) for row in rows)
    note = None
    if finished > RUNS:
        note = f"Learning curves are kept of the best rows of every task, {RUNS - room} of {finished} runs."
    return found, note


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
        except (ValueError, KeyError, TypeError):  # a line of something else, or cut off by a kill
            continue
        if math.isfinite(loss):
            points.append((step, float(f"{loss:.4g}")))
    if len(points) < 2:
        return None
    every = (len(points) - 1) / (POINTS - 1)
    if every > 1:
        points = [points[round(number * every)] for number in range(POINTS)]
    return [step for step, _ in points], [loss for _, loss in points]
