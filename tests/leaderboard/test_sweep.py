"""A sweep ends with one table of all its runs, wherever they ran and whatever became of them."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
from helpers.recorded_runs import write_run

from peftkit.cli import _Outcome
from peftkit.cli.sweep_status import RunStatus, open_status_folder, write_status

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize("is_elsewhere", [True, False])
def test_all_runs_of_the_command_and_no_other_are_shown_at_its_end(
    tmp_path: Path, capsys: Captured, is_elsewhere: bool
) -> None:
    write_run(tmp_path, "before", method="ia3")  # long before this command began
    write_run(tmp_path, "bad", method="lora", status="failed", reason="out of memory")
    write_run(tmp_path, "other", method="full")  # of another command
    outcome = _Outcome([])
    outcome.notes = open_status_folder(tmp_path) if is_elsewhere else None
    runs = pickle.loads(pickle.dumps(outcome)) if is_elsewhere else outcome
    runs.begin(tmp_path / "before")
    runs.begin(tmp_path / "bad")
    runs.fail(1, "out of memory")
    runs.fail(2, "there is no such file")
    if is_elsewhere:
        capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        outcome.end()
    shown = capsys.readouterr()
    assert left.value.code == 1
    assert "ia3" in shown.out and "1 of 2 runs without scores that count" in shown.out and "full" not in shown.out
    assert shown.err.splitlines() == ["peftkit: out of memory", "peftkit: there is no such file"]
    assert not list(tmp_path.glob(".sweep-*"))


def test_of_one_run_that_failed_no_table_says_it_again(tmp_path: Path, capsys: Captured) -> None:
    write_run(tmp_path, "bad", status="failed", reason="out of memory")
    outcome = _Outcome([])
    outcome.begin(tmp_path / "bad")
    outcome.fail(1, "out of memory")
    with pytest.raises(SystemExit):
        outcome.end()
    assert capsys.readouterr().out == ""


def test_a_note_that_nobody_waits_for_any_more_stops_no_run(tmp_path: Path) -> None:
    notes = open_status_folder(tmp_path)
    shutil.rmtree(notes)
    write_status(RunStatus(folder="x"), notes)
    assert not notes.exists()
