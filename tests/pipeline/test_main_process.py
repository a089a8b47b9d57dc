"""The processes of a run follow the main process."""

from __future__ import annotations

import time

import pytest
from helpers.two_processes import run_two

from peftkit.config import UserError
from peftkit.pipeline.main_process import follow_main_process


def decide() -> str:
    time.sleep(0.3)
    return "train"


def refuse() -> str:
    raise UserError("no room; free space")


def process(rank: int) -> None:
    """Follow two decisions and a refusal as one of two processes."""
    found = [follow_main_process(name, decide if rank == 0 else refuse) for name in ("a", "a")]
    with pytest.raises(UserError, match="^no room" if rank == 0 else "^process 0: no room"):
        follow_main_process("a", refuse)
    assert found == ["train", "train"]


def test_all_processes_have_the_decision_of_the_first() -> None:
    assert follow_main_process("a", decide) == "train"
    assert run_two(process) == [0, 0]
