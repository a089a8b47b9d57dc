"""The processes of a run follow the main process."""

from __future__ import annotations

import os
import socket
import time

import pytest

from peftkit.config import UserError
from peftkit.pipeline.main_process import follow_main_process


def decide() -> str:
    time.sleep(0.3)
    return "train"


def refuse() -> str:
    raise UserError("no room; free space")


def process(rank: int) -> None:
    """Follow two decisions and a refusal as one of two processes."""
    os.environ["RANK"] = str(rank)
    try:
        found = [follow_main_process(name, decide if rank == 0 else refuse) for name in ("a", "a")]
        with pytest.raises(UserError, match="^no room" if rank == 0 else "^process 0: no room"):
            follow_main_process("a", refuse)
        time.sleep(0.5 * (rank == 0))  # without torchrun, process 0 has the store
        os._exit(found != ["train", "train"])
    finally:
        os._exit(1)


def test_all_processes_have_the_decision_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert follow_main_process("a", decide) == "train"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port))):
        monkeypatch.setenv(name, value)
    children = []
    for rank in (1, 0):
        child = os.fork()
        if child == 0:
            process(rank)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
