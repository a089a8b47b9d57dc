"""A block ends in all processes of a run as in the first that fails, also where the others wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from helpers.two_processes import run_two
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


def test_an_error_of_one_process_ends_the_block_in_all() -> None:
    assert run_two(processes) == [0, 0]


def test_two_processes_that_wait_for_each_other_are_killed_after_a_limit() -> None:
    assert run_two(lambda _: sleep(), limit=0.2) == [-9, -9]


def test_a_single_process_has_no_blocks() -> None:
    with pytest.raises(OSError, match=r"^full$"), one_outcome():
        raise OSError("full")
