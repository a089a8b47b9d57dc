"""Runs of one command that train side by side, each in a process of a pool."""

import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from peftkit.config import JOBS, RunConfig, UserError, error_summary
from peftkit.config.errors import BusyError
from peftkit.config.imports import end_imports, start_imports
from peftkit.config.progress import shown_progress
from peftkit.config.worker_pool import Ended, WorkerPool
from peftkit.config.write_failures import write_failure
from peftkit.jobs.dispatch import run_job
from peftkit.jobs.sequential import SequentialSeeds
from peftkit.jobs.workers import gpu_environments, prepare_fork


@dataclass(frozen=True)
class SideRun:
    """One of the runs of a command, counted from 1."""

    number: int
    total: int
    config: RunConfig
    sequential: SequentialSeeds | None = None

    def line(self, text: str) -> str:
        """Return a line that begins with the number of this run; its !! of a warning stays in front."""
        mark = "!! " if text.startswith("!! ") else ""
        return f"{mark}[{self.number}/{self.total}] {text.removeprefix(mark)}"


@dataclass(frozen=True)
class Crash:
    """An error of a run that is not the user's.

    Args:
        folder: of the run, where it has one.
        is_complete: whether the reason is the whole message, as of a process that died.
    """

    reason: str
    folder: Path | None = None
    is_complete: bool = False


Receive = Callable[[SideRun, Any], None]


class RunPool(WorkerPool[SideRun]):
    """Processes for runs, of which `receive` gets the lines, the folder, and the error or `Crash`.

    Args:
        config: of the first run.
        can_fork: whether this process has only imported what runs need, so that others can be forked from it.
        sequential: of a command with sequential seeds: the runs of a seed start when those of the earlier ones ended.
    """

    def __init__(
        self, config: RunConfig, receive: Receive, can_fork: bool, sequential: SequentialSeeds | None = None
    ) -> None:
        assert isinstance(config.workers, int)
        can_fork = can_fork and prepare_fork(config.job)
        super().__init__(config.workers, _run, self._receive_all, can_fork, gpu_environments())
        self.receive_run, self.sequential = receive, sequential
        self.folders: dict[int, Path] = {}  # of the runs that did not fail

    def submit(self, task: SideRun) -> None:
        """Start a run, or leave it waiting for a process."""
        if self.sequential is not None:
            if task.config.seed not in self.sequential.begun:
                self.wait()
                self.sequential.begin(task.config)
            task = replace(task, sequential=self.sequential)
        super().submit(task)

    def _receive_all(self, run: SideRun, message: Any) -> None:
        if isinstance(message, Path):
            self.folders[run.number] = message
        elif isinstance(message, (UserError, Crash)):
            folder = self.folders.pop(run.number, None)
            message = replace(message, folder=folder) if isinstance(message, Crash) else message
        elif isinstance(message, Ended) and message.reason is not None:
            self.receive_run(run, _death(message.reason, self.folders.pop(run.number, None)))
        elif isinstance(message, Ended) and self.sequential is not None and run.number in self.folders:
            self.sequential.add(run.config, self.folders[run.number])
        self.receive_run(run, message)


def run_side_by_side(runs: Sequence[SideRun], receive: Receive, sequential: SequentialSeeds | None = None) -> None:
    """Run all in processes that are started anew, and end these if `receive` raises an error."""
    pool = RunPool(runs[0].config, receive, can_fork=False, sequential=sequential)
    try:
        for run in runs:
            pool.submit(run)
        pool.drain()
    finally:
        pool.stop()


def _death(reason: str, folder: Path | None) -> Crash:
    """Record in the folder of a run, if it has one, that its process died."""
    from peftkit.results import run_folder
    from peftkit.results.locks import locked_folder

    if folder is not None:
        with suppress(BusyError), locked_folder(folder, waits=False):  # another process may train it by now
            if (result := run_folder.valid_result(folder)) is not None:
                result["meta"] |= {"status": "failed", "reason": reason}
                run_folder.write_result(folder, result)
    return Crash(reason, folder, is_complete=True)


def _run(run: SideRun, send: Callable[[Any], None]) -> None:
    """Run one job in a process of the pool; send its folder and its error."""
    try:
        with shown_progress(not run.config.train.get("disable_tqdm", False)):
            _prepare(run.config.job)
            run_job(run.config, send, run.sequential)
    except UserError as error:
        send(error)
    except Exception as error:
        if "PEFTKIT_DEBUG" in os.environ:
            traceback.print_exc()
        failed = write_failure(error, Path(run.config.out))
        send(Crash(error_summary(error)) if failed is None else Crash(str(failed), is_complete=True))


@lru_cache(maxsize=1)
def _prepare(job: str) -> None:
    """Import what a job needs, and fork the process that verifies saved models before any of it is used."""
    start_imports()
    import_module(JOBS[job].entry.partition(":")[0])
    end_imports()
    from peftkit.jobs.finetune import fork_verifier

    fork_verifier()
