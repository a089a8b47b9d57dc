"""A function in two forked processes that find each other as under torchrun."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

import pytest


def run_two(monkeypatch: pytest.MonkeyPatch, function: Callable[[int], None]) -> list[int]:
    """Call a function with each rank in a process of its own; return the exit codes, 0 where it raised nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port))):
        monkeypatch.setenv(name, value)
    children = []
    for rank in (1, 0):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.environ["RANK"] = str(rank)
                function(rank)
                time.sleep(0.5 * (rank == 0))  # without torchrun, process 0 has the store
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
