"""The process that loads saved artifacts: it has trained no model, and serves all runs of a command.

It is forked where a command has imported what it needs and done nothing else; where that is unsafe, it is started, and
imports all of it again. Requests and responses are lines of JSON. It is in a session of its own, and ends when its
requests end, as they do with the process that sends them.
"""

import atexit
import contextvars
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, NoReturn

import torch

from peftkit.config.signals import ignore_signals

PROGRAM = (
    "from peftkit.config.signals import ignore_signals; ignore_signals(); "
    "from peftkit.config.imports import start_imports; start_imports(); "  # before those of this module
    "from peftkit.pipeline.verify import main; main()"
)
DISTRIBUTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
Serve = Callable[[IO[str], IO[str]], None]


@dataclass(frozen=True)
class _Process:
    pid: int
    requests: IO[str]
    responses: IO[str]
    wait: Callable[[], int]  # returns the exit code


_RUNNING: list[_Process] = []  # one at most
_NUMBERS = itertools.count()  # of requests
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_RUNNING.clear)  # a child has a process of its own


def fork(serve: Serve) -> None:
    """Fork the process that answers requests by `serve`, unless it runs already or a fork is unsafe.

    The calling process must not have used the threads of OpenMP. The driver of an accelerator does not survive a fork,
    nor do some libraries of macOS.
    """
    if _RUNNING or sys.platform != "linux" or torch.accelerator.is_available():
        return
    (requests, to_child), (from_child, responses) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        _run_child(serve, requests, responses)
    os.close(requests)
    os.close(responses)

    def wait() -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    _keep(_Process(pid, os.fdopen(to_child, "w"), os.fdopen(from_child), wait))


def _run_child(serve: Serve, requests: int, responses: int) -> NoReturn:
    """Serve until the parent ends, without what the parent has open, such as the locks of its run folders."""
    try:
        ignore_signals()
        os.setsid()  # a terminal's signals go to the parent alone
        os.dup2(requests, 0)
        os.dup2(responses, 1)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for name in DISTRIBUTED:
            os.environ.pop(name, None)
        channel = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        contextvars.Context().run(serve, os.fdopen(0), channel)  # without the parent's progress
    finally:
        os._exit(0)


def start() -> None:
    """Start the process, unless it runs already."""
    if _RUNNING:
        return
    environment = {name: value for name, value in os.environ.items() if name not in DISTRIBUTED}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    _keep(_Process(process.pid, process.stdin, process.stdout, process.wait))


def _keep(process: _Process) -> None:
    _RUNNING.append(process)
    atexit.register(_stop, process, os.getpid())


def _stop(process: _Process, parent: int) -> None:
    if process in _RUNNING and os.getpid() == parent:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def send(message: dict[str, Any]) -> int:
    """Send a request to the process, and return its number; this process can go on meanwhile."""
    start()
    number = next(_NUMBERS)
    with suppress(OSError):  # `receive` returns the reason
        _RUNNING[0].requests.write(json.dumps({**message, "number": number}) + "\n")
        _RUNNING[0].requests.flush()
    return number


def receive(number: int) -> dict[str, Any]:
    """Return the response to a request, or the reason why there is none; those that nobody received are skipped."""
    (process,) = _RUNNING
    with suppress(OSError):
        while line := process.responses.readline():
            if (response := json.loads(line))["number"] == number:
                return response  # type: ignore[no-any-return]
    _RUNNING.clear()
    return {"error": f"the process ended with exit code {process.wait()}"}
