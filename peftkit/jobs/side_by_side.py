"""Runs of one command that train side by side, each in a process of a pool."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from peftkit.config import JOBS, RunConfig, UserError, error_summary
from peftkit.config.imports import end_imports, start_imports
from peftkit.config.progress import shown_progress
from peftkit.config.worker_pool import Ended, WorkerPool
from peftkit.jobs.dispatch import run_job


@dataclass(frozen=True)
class SideRun:
    """One of the runs of a command, counted from 1."""

    number: int
    total: int
    config: RunConfig

    def line(self, text: str) -> str:
        """Return a line that begins with the number of this run; its !! of a warning stays in front."""
        mark = "!! " if text.startswith("!! ") else ""
        return f"{mark}[{self.number}/{self.total}] {text.removeprefix(mark)}"


@dataclass(frozen=True)
class Crash:
    """An error of a run that is not the user's.

    Args:
        folder: of the run, where it has one.
        is_death: whether its process died.
    """

    reason: str
    folder: Path | None = None
    is_death: bool = False


Receive = Callable[[SideRun, Any], None]


def with_workers(config: RunConfig, runs: int) -> RunConfig:
    """Return the config of one of several runs, with the threads of each and the number that train at the same time.

    The number of threads depends on `workers` alone, so that the runs of a command that goes on equal those before.
    """
    if config.workers is None or config.job == "plan":
        return replace(config, workers=None)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    number = min(config.workers, runs)
    return replace(
        config,
        threads=config.threads or max(cores // config.workers, 1),
        workers=number if number > 1 else None,
    )


def open_pool(config: RunConfig, receive: Receive, can_fork: bool) -> WorkerPool[SideRun]:
    """Return the processes for runs, of which `receive` gets the lines, the folder, and the error or `Crash`.

    Args:
        config: of the first run.
        can_fork: whether this process has only imported what runs need, so that others can be forked from it.
    """
    if can_fork := can_fork and sys.platform == "linux":
        import torch

        import_module(JOBS[config.job].entry.partition(":")[0])
        end_imports()
        can_fork = not torch.accelerator.is_available()  # its driver does not survive a fork
    folders: dict[int, Path] = {}

    def receive_all(run: SideRun, message: Any) -> None:
        if isinstance(message, Path):
            folders[run.number] = message
        elif isinstance(message, Crash):
            message = replace(message, folder=folders.get(run.number))
        elif isinstance(message, Ended) and message.reason is not None:
            receive(run, _death(message.reason, folders.get(run.number)))
        receive(run, message)

    assert config.workers is not None
    return WorkerPool(config.workers, _run, receive_all, can_fork)


def run_side_by_side(runs: Sequence[SideRun], receive: Receive) -> None:
    """Run all in processes that are started anew, and end these if `receive` raises an error."""
    pool = open_pool(runs[0].config, receive, can_fork=False)
    try:
        for run in runs:
            pool.submit(run)
        pool.drain()
    finally:
        pool.stop()


def _death(reason: str, folder: Path | None) -> Crash:
    """Record in the folder of a run, if it has one, that its process died."""
    from peftkit.results import run_folder

    result = None if folder is None else run_folder.read_result(folder)
    if folder is not None and result is not None:
        result["meta"] |= {"status": "failed", "reason": reason}
        run_folder.write_result(folder, result)
    return Crash(reason, folder, is_death=True)


def _run(run: SideRun, send: Callable[[Any], None]) -> None:
    """Run one job in a process of the pool; send its folder and its error."""
    try:
        with shown_progress(not run.config.train.get("disable_tqdm", False)):
            _prepare(run.config.job)
            from peftkit.jobs.search import run_lock

            with run_lock(run.config):  # an equal run of the command waits, and finds the result
                run_job(run.config, send)
    except UserError as error:
        send(error)
    except Exception as error:
        if "PEFTKIT_DEBUG" in os.environ:
            traceback.print_exc()
        send(Crash(error_summary(error)))


@lru_cache(maxsize=1)
def _prepare(job: str) -> None:
    """Import what a job needs, and fork the process that verifies saved models before any of it is used."""
    start_imports()
    import_module(JOBS[job].entry.partition(":")[0])
    end_imports()
    from peftkit.jobs.finetune import fork_verifier

    fork_verifier()
