"""A block ends in all processes of a run as in the first that fails, also where the others wait for it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

import pytest
import torch
from torch import distributed

from peftkit.config import UserError
from peftkit.pipeline.processes import ProcessError, one_outcome


def reduce() -> None:
    total = torch.ones(1)
    distributed.all_reduce(total)
    assert float(total) == 2


def sleep() -> None:
    for _ in range(600):
        time.sleep(0.1)


def fail(error: Exception) -> None:
    raise error


def nested() -> None:
    with one_outcome():
        reduce()


def processes(rank: int) -> None:
    """Enter blocks that process 1 leaves by an error, and blocks after them that work."""
    waits: list[tuple[Callable[[], None], Exception, type[Exception], str]] = [
        (reduce, OSError("no space left"), ProcessError, "process 1: no space left"),
        (sleep, UserError("a is wrong; use a=1"), UserError, "a is wrong; use a=1"),
        (nested, ValueError("not a number"), ProcessError, "process 1: not a number"),
    ]
    for wait, error, expected, text in waits:
        with pytest.raises(Exception) as caught, one_outcome():
            reduce()
            fail(error) if rank else wait()
        assert (caught.value is error) if rank else (type(caught.value), str(caught.value)) == (expected, text)
        with one_outcome():
            reduce()
    with pytest.raises(UserError, match="locked"), one_outcome():
        fail(UserError("locked")) if rank == 0 else nested()


def test_an_error_of_one_process_ends_the_block_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
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
                processes(rank)
                time.sleep(0.5 * (rank == 0))  # without torchrun, process 0 has the store
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


def test_a_single_process_has_no_blocks() -> None:
    with pytest.raises(OSError, match=r"^full$"), one_outcome():
        raise OSError("full")
