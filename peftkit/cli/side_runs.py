"""The runs of one command that train side by side: their lines, folders and failures, and their end."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftkit.cli.sweep_status import describe_start, failure, time_left
from peftkit.config import RunConfig, UserError
from peftkit.config.console import log
from peftkit.config.progress import shown_progress, stage
from peftkit.config.worker_pool import Ended, Started
from peftkit.jobs.sequential import SequentialSeeds
from peftkit.jobs.side_by_side import Crash, RunPool, SideRun


class SideRuns:
    """Starts each run in another process as soon as one is free, and receives what it sends.

    Args:
        total: the number of runs.
        record_folder: called with the folder of each run that starts.
        fail: called with the exit code and the message of each failure.
        sequential: of a command with sequential seeds.
    """

    def __init__(
        self,
        total: int,
        record_folder: Callable[[Path], None],
        fail: Callable[[int, str], None],
        sequential: SequentialSeeds | None,
    ) -> None:
        self.total, self.record_folder, self.fail, self.sequential = total, record_folder, fail, sequential
        self.pool: RunPool | None = None  # until the first run starts
        self.submitted = 0
        self.started: dict[int, float] = {}  # time, by the number of a run
        self.seconds: list[float] = []  # of each run that ended

    def submit(self, config: RunConfig) -> None:
        """Start a run, or leave it waiting for a process."""
        if self.pool is None:
            with shown_progress(), stage("importing the libraries"):
                self.pool = RunPool(config, self._receive, True, self.sequential)
        self.submitted += 1
        self.pool.submit(SideRun(self.submitted, self.total, config))

    def wait(self) -> None:
        """Wait until all runs have ended."""
        if self.pool is not None:
            self.pool.drain()

    @property
    def running(self) -> int:
        """The number of runs that have started and not ended."""
        return len(self.started) - len(self.seconds)

    def stop(self) -> None:
        """End the processes."""
        if self.pool is not None:
            self.pool.stop()

    def _receive(self, run: SideRun, message: Any) -> None:
        """Show what a process sends about its run."""
        if isinstance(message, str):
            log(run.line(message))
        elif isinstance(message, Started):
            self.started[run.number] = time.monotonic()
            self._announce(run)
        elif isinstance(message, Path):
            self.record_folder(message)
        elif isinstance(message, UserError):
            self.fail(2, run.line(str(message)))
        elif isinstance(message, Crash):
            text = run.line(message.reason)
            self.fail(*((1, text) if message.is_complete else failure(text, message.folder)))
        elif isinstance(message, Ended):
            self.seconds.append(time.monotonic() - self.started[run.number])

    def _announce(self, run: SideRun) -> None:
        assert self.pool is not None
        left = time_left(self.seconds, (self.total - len(self.seconds)) / self.pool.number)
        log(describe_start(run.config, run.number, self.total, left))
