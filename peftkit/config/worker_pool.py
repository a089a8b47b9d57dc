"""Processes that work side by side on the runs of a command; one that dies is replaced."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from peftkit.config.console import send_lines
from peftkit.config.shared import sharing
from peftkit.config.signals import interruptible

T = TypeVar("T")
Send = Callable[[Any], None]
GRACE = 25.0  # seconds that an interrupted task has to end its step, and to record its state


@dataclass(frozen=True)
class Started:
    """The start of a task."""


@dataclass(frozen=True)
class Ended:
    """The end of a task; of a process that died, how it did."""

    reason: str | None = None


@dataclass
class _Worker(Generic[T]):
    process: BaseProcess
    connection: Connection
    environment: Mapping[str, str]
    task: T | None = None


class WorkerPool(Generic[T]):
    """Processes that each work on one task at a time.

    Args:
        number: of processes.
        work: called in one of the processes with a task and a function that sends a message from there. The lines that
            it logs are sent too, as texts.
        receive: called in this process with a task and each of its messages, from `Started` to `Ended`.
        is_forked: whether they are forked. This process must not have used threads, and is on Linux. Otherwise they are
            started anew, so that `work` and the tasks are pickled.
        environments: variables of the environment, of which each process gets those that the fewest others have.
    """

    def __init__(
        self,
        number: int,
        work: Callable[[T, Send], None],
        receive: Callable[[T, Any], None],
        is_forked: bool,
        environments: Sequence[Mapping[str, str]] = ({},),
    ) -> None:
        self.number, self.work, self.receive, self.environments = number, work, receive, environments
        self.context: Any = get_context("fork" if is_forked else "spawn")
        self.workers: list[_Worker[T]] = []
        self.waiting: deque[T] = deque()

    def submit(self, task: T) -> None:
        """Add a task, start it if a process is idle, and receive the messages that are there."""
        self.waiting.append(task)
        self._receive(timeout=0)

    def wait(self) -> None:
        """Receive messages until all tasks have ended."""
        while self.waiting or self._busy():
            self._receive(timeout=None)

    def drain(self) -> None:
        """Receive messages until all tasks have ended, then end the processes."""
        self.wait()
        for worker in self.workers:
            with suppress(OSError):
                worker.connection.send(None)
            worker.process.join()
        self.workers.clear()

    def stop(self) -> None:
        """Drop the waiting tasks, interrupt the running ones, and end the processes."""
        self.waiting.clear()
        for worker in self.workers:
            worker.process.terminate()
        deadline = time.monotonic() + GRACE
        try:
            for worker in self.workers:
                worker.process.join(max(deadline - time.monotonic(), 0))
        finally:  # a second interrupt does not wait for them
            for worker in self.workers:
                worker.process.kill()
            self.workers.clear()

    def _busy(self) -> list[_Worker[T]]:
        return [worker for worker in self.workers if worker.task is not None]

    def _receive(self, timeout: float | None) -> None:
        """Receive a message of each process that has one before the timeout, in seconds, and start waiting tasks."""
        self._start()
        by_connection = {worker.connection: worker for worker in self._busy()}
        for connection in wait([*by_connection], timeout):
            worker = by_connection[connection]  # type: ignore[index]
            task: Any = worker.task
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                self.workers.remove(worker)
                message = Ended(_reason(worker.process.exitcode or 0))
            if isinstance(message, Ended):
                worker.task = None
            self.receive(task, message)
        self._start()

    def _start(self) -> None:
        while self.waiting and (worker := self._idle()) is not None:
            worker.task = task = self.waiting.popleft()
            self.receive(task, Started())
            with suppress(OSError):  # it died, which is received as its end
                worker.connection.send(task)

    def _idle(self) -> _Worker[T] | None:
        """Return a process without a task, which is started if there are fewer than allowed."""
        for worker in self.workers:
            if worker.task is None:
                return worker
        if len(self.workers) == self.number:
            return None
        used = [worker.environment for worker in self.workers]
        environment = min(self.environments, key=used.count)
        here, there = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(there, self.work, environment))
        process.start()
        there.close()  # so that its end is the end of the connection
        self.workers.append(_Worker(process, here, environment))
        return self.workers[-1]


def _reason(exit_code: int) -> str:
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"its process was killed ({name}{', as where memory runs out' if name == 'SIGKILL' else ''})"


def _serve(connection: Connection, work: Callable[[Any, Send], None], environment: Mapping[str, str]) -> None:
    """Work on tasks until there are no more, or the process that started this one ends."""
    os.environ.update(environment)
    lock = threading.Lock()

    def send(message: Any) -> None:
        with lock:
            connection.send(message)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, which the other process gets too
    with suppress(KeyboardInterrupt, EOFError), interruptible(repeats=False), sharing():
        send_lines(send)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        while (task := connection.recv()) is not None:
            work(task, send)
            send(Ended())


def _end_with_parent() -> None:
    """Interrupt the task where the process that started this one ended first, which it does only if it is killed."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
