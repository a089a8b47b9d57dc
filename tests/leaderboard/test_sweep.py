"""A sweep ends with one table of all its runs, those of other processes and failed ones included."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
from helpers.recorded_runs import write_run

from peftkit.cli.runner import SweepRunner
from peftkit.cli.sweep_status import RunStatus, open_status_folder, write_status

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize("is_elsewhere", [True, False])
def test_all_runs_of_the_command_and_no_other_are_shown_at_its_end(
    tmp_path: Path, capsys: Captured, is_elsewhere: bool
) -> None:
    write_run(tmp_path, "before", method="ia3")  # long before this command began
    write_run(tmp_path, "bad", method="lora", status="failed", reason="out of memory")
    write_run(tmp_path, "other", method="full")  # of another command
    runner = SweepRunner([])
    runner.status_folder = open_status_folder(tmp_path) if is_elsewhere else None
    runs = pickle.loads(pickle.dumps(runner)) if is_elsewhere else runner
    runs.record_folder(tmp_path / "before")
    runs.record_folder(tmp_path / "bad")
    runs.fail(1, "out of memory")
    runs.fail(2, "no such file")
    if is_elsewhere:
        capsys.readouterr()
    assert runner.finish() == 1
    shown = capsys.readouterr()
    assert "ia3" in shown.out and "1 of 2 runs without valid scores" in shown.out and "full" not in shown.out
    assert shown.err.splitlines() == ["peftkit: out of memory", "peftkit: no such file"]
    assert not list(tmp_path.glob(".sweep-*"))


def test_the_failure_of_a_single_run_has_no_table(tmp_path: Path, capsys: Captured) -> None:
    write_run(tmp_path, "bad", status="failed", reason="out of memory")
    runner = SweepRunner([])
    runner.record_folder(tmp_path / "bad")
    runner.fail(1, "out of memory")
    assert runner.finish() == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("command", "folds", "following"),
    [
        (["task=sst2", "task.folds=5", "method=lora"], 5, "task=sst2 method=lora"),
        (["recipe=with_folds", "seed=1"], 5, "recipe=with_folds seed=1 task.folds=null"),
        (["task=sst2", "allow_code=[mine]"], None, "job=predict run={} input=FILE 'allow_code=[mine]'"),
    ],
)
def test_after_a_run_comes_prediction_and_after_a_cross_validation_training_on_all_examples(
    command: list[str], folds: int | None, following: str, tmp_path: Path, capsys: Captured
) -> None:
    write_run(tmp_path, "folds")
    file = tmp_path / "folds" / "result.json"
    record = json.loads(file.read_text())
    record["run"]["config"]["task"]["folds"] = folds
    file.write_text(json.dumps(record))
    runner = SweepRunner([])
    runner.command = command
    runner.record_folder(tmp_path / "folds")
    assert runner.finish() == 0
    assert f"next: python -m peftkit {following.format(tmp_path / 'folds')}\n" in capsys.readouterr().err


def test_a_status_without_a_waiting_command_is_dropped(tmp_path: Path) -> None:
    status_folder = open_status_folder(tmp_path)
    shutil.rmtree(status_folder)
    write_status(RunStatus(folder="x"), status_folder)
    assert not status_folder.exists()
