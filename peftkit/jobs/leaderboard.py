"""Turn run folders into the tables that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftkit.jobs.console import is_main, say
from peftkit.leaderboard import table
from peftkit.schema import Run, UserError


def leaderboard(run: Run) -> None:
    """Show every result under `out`, and write the tables beside them as CSV and Markdown."""
    results = table.collect([Path(run.out)])
    if not results:
        raise UserError(f"{run.out} holds no results; train first: python -m peftkit recipe=lora_glue")
    if is_main():
        table.show(results)
        target = Path(run.out) / "leaderboard"
        table.write(results, target)
        say(f"-> {target}")


def show_runs(folders: Sequence[Path]) -> None:
    """Show the table over these run folders alone."""
    if folders and is_main():
        table.show(table.collect(list(folders)))
