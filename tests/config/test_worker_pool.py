"""Each process of a pool gets a variable of its own while there are enough values."""

from __future__ import annotations

import os
from typing import Any

from peftkit.config.worker_pool import Send, WorkerPool

NAME = "PEFTKIT_TEST_DEVICE"


def send_variable(task: int, send: Send) -> None:
    send((task, os.environ[NAME]))
    if task == 0:
        os._exit(1)


def test_processes_have_environments_in_turn() -> None:
    received: dict[int, str] = {}

    def receive(_: int, message: Any) -> None:
        if isinstance(message, tuple):
            received[message[0]] = message[1]

    pool = WorkerPool(3, send_variable, receive, is_forked=False, environments=[{NAME: "2"}, {NAME: "3"}])
    for task in range(3):
        pool.submit(task)
    pool.wait()
    assert received == {0: "2", 1: "3", 2: "2"}
    for task in (3, 4, 5):  # the process that ended is replaced by one with its variable
        pool.submit(task)
    pool.wait()
    assert {received[task] for task in (3, 4, 5)} <= {"2", "3"}
    assert sorted(worker.environment[NAME] for worker in pool.workers) in (["2", "3"], ["2", "2", "3"])
    pool.drain()
    assert NAME not in os.environ
