"""The processes of a run follow the main process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from helpers.two_processes import run_two

from peftkit.config import UserError
from peftkit.pipeline.main_process import follow_main_process, locked_by_main_process, write_once
from peftkit.pipeline.processes import ProcessError, one_outcome


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


def after_failure(rank: int) -> None:
    """Follow a decision that process 0 failed to reach, then the one of the next block."""
    with pytest.raises(OSError if rank == 0 else ProcessError, match="no space left"), one_outcome():
        if rank == 0:
            raise OSError("no space left")
        follow_main_process("a", decide)
    with one_outcome():
        assert follow_main_process("a", decide) == "train"


def test_all_processes_have_the_decision_of_the_first() -> None:
    assert follow_main_process("a", decide) == "train"
    assert run_two(process) == [0, 0]


def test_a_decision_is_that_of_its_block() -> None:
    assert run_two(after_failure) == [0, 0]


def test_the_main_process_writes_once_and_locks_for_all(tmp_path: Path) -> None:
    file, output = tmp_path / "shared", tmp_path / "output"

    def write(rank: int) -> None:
        def add_line() -> None:
            time.sleep(0.3)
            with file.open("a") as lines:
                lines.write(f"{rank}\n")

        with one_outcome():
            for _ in range(2):
                write_once(file, file.exists, add_line)
                assert file.read_text() == "0\n"
        with locked_by_main_process(output):
            assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".lock")] == [".output.lock"]
            time.sleep(0.5 * (rank == 0))  # until the other process has looked

    assert run_two(write) == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]


def test_a_process_waits_for_no_other_that_has_the_file_or_loads_another_one(tmp_path: Path) -> None:
    """Process 0 has one file and process 1 another, outside of blocks; in one, each has a disk of its own."""
    common = tmp_path / "common"

    def add_line(file: Path) -> None:
        with file.open("a") as lines:
            lines.write("line\n")

    def write(rank: int) -> None:
        own = tmp_path / str(rank)
        write_once(own, own.exists, lambda: add_line(own))
        write_once(common, common.exists, lambda: add_line(common))
        disk = tmp_path / f"disk-{rank}"
        disk.mkdir()
        part, whole = disk / "part", disk / "whole"
        if rank == 0:
            add_line(whole)

        def write_whole() -> None:
            write_once(part, part.exists, lambda: add_line(part))
            add_line(whole)

        with one_outcome():
            write_once(whole, whole.exists, write_whole)
        for file in (own, common, whole):
            assert file.read_text() == "line\n"
        assert part.exists() == (rank == 1)

    assert run_two(write) == [0, 0]
