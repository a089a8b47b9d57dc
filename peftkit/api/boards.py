"""Boards and lists of the runs below a folder, and differences between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.cli import arguments

if TYPE_CHECKING:
    from peftkit.jobs.diff import RunDiff
    from peftkit.leaderboard.board import Board
    from peftkit.results.listing import ListedRun
    from peftkit.results.run_result import RunResult


def leaderboard(out: str | Path = "outputs", *, results: Sequence[str | Path] = ()) -> Board:
    """Return the board of all runs below `out` and `results`."""
    from peftkit.leaderboard.board import Board

    return Board.read(
        [arguments.path("out", out), *map(Path, arguments.items("results", results, "path", (str, Path)))]
    )


def runs(out: str | Path = "outputs") -> list[ListedRun]:
    """Return all runs below `out` with their status, first score, size in bytes and start, by folder."""
    from peftkit.results.listing import list_runs

    return list_runs(arguments.path("out", out))


def diff(first: str | Path | RunResult, second: str | Path | RunResult) -> RunDiff:
    """Return the examples on which two finished runs of one task differ, by class, with paired tests."""
    from peftkit.jobs.diff import compare_predictions

    return compare_predictions(*map(arguments.run_folder, (first, second)))
