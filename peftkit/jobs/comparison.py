"""Training of the runs of a comparison that Python code starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, UserError
from peftkit.config.console import log, log_records
from peftkit.jobs.dispatch import run_job
from peftkit.jobs.sequential import SequentialSeeds
from peftkit.jobs.side_by_side import Crash, SideRun, run_side_by_side


def train_all(configs: Sequence[RunConfig]) -> list[Path]:
    """Train each run, and return the folders; one that fails is logged."""
    folders: list[Path] = []

    def receive(run: SideRun, message: Any) -> None:
        if isinstance(message, UserError):
            raise message
        if isinstance(message, Path):
            folders.append(message)
        elif isinstance(message, Crash):
            log(f"!! {run.config.method.name} on {run.config.task.name}, seed {run.config.seed}: {message.reason}")
        elif isinstance(message, str):
            log(run.line(message))

    sequential = SequentialSeeds(len({each.seed for each in configs})) if configs[0].sequential_seeds else None
    runs = [SideRun(number, len(configs), config) for number, config in enumerate(configs, start=1)]
    with log_records():
        if configs[0].workers is not None:
            run_side_by_side(runs, receive, sequential)
        for run in runs if configs[0].workers is None else []:
            try:
                run_job(run.config, folders.append, sequential)
            except UserError:
                raise
            except Exception as error:
                receive(run, Crash(str(error)))
    return folders
