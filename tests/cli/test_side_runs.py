"""Runs side by side equal runs alone; one that dies, and a command that is interrupted, leave the others right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import check
from helpers.fork_server import Finished, ForkServer

import peftkit

Overrides = Callable[..., list[str]]
METRIC = """
import os, signal, time
from pathlib import Path
from peftkit.metrics.registry import mean, metric

@metric("classes")
def accuracy_or_end(labels, predictions):
    if len(labels) == 24:  # those of the validation split
        {end}
    return mean(1.0 * (predictions == labels))
"""
KILL_ONE = "Path('killed').exists() or (Path('killed').touch(), os.kill(os.getpid(), signal.SIGKILL))"
INTERRUPT = "Path('sent').exists() or (Path('sent').touch(), os.kill(os.getppid(), signal.{name})); time.sleep(30)"


@pytest.fixture
def sweep(tiny: Overrides, fork_server: ForkServer, tmp_path: Path) -> Callable[..., Finished]:
    """Return a function that runs a command on a tiny model."""

    def run(*more: str) -> Finished:
        return fork_server.run(["-m", *tiny("bert", "task=mrpc", "method=ia3"), *more], tmp_path)

    return run


def results(folder: Path) -> dict[int, dict[str, Any]]:
    found = (json.loads(file.read_text()) for file in folder.rglob("result.json"))
    return {result["meta"]["seed"]: result for result in found}


def test_runs_side_by_side_equal_runs_alone(sweep: Callable[..., Finished], tmp_path: Path) -> None:
    together = sweep("seed=0,1,1", "workers=2", f"out={tmp_path}/together")
    assert together.code == 0 and "[3/3]" in together.stderr and " 2 " in together.stdout
    assert "finished already" in together.stderr  # the equal run waited for the other one
    side = results(tmp_path / "together")
    assert side.keys() == {0, 1}
    assert all(result["meta"]["device"].endswith("2 runs at a time") for result in side.values())
    alone = sweep("seed=0,1", "threads=1", f"out={tmp_path}/alone")
    assert alone.code == 0
    for seed, result in results(tmp_path / "alone").items():
        assert result["meta"]["threads"] == side[seed]["meta"]["threads"] == 1
        assert "at a time" not in result["meta"]["device"]
        assert result["scores"] == side[seed]["scores"] and result["audit"] == side[seed]["audit"]
    assert "Machine: cpu" in together.stdout and "2 runs at a time." in together.stdout
    weights = [sorted((tmp_path / name).rglob("*.safetensors")) for name in ("together", "alone")]
    assert [each.read_bytes() for each in weights[0]] == [each.read_bytes() for each in weights[1]] != []


def own_metric(folder: Path, end: str) -> list[str]:
    (folder / "own").mkdir()
    (folder / "own" / "__init__.py").write_text(METRIC.format(end=end))
    return ["allow_code=[own]", "task.metrics=[accuracy_or_end]"]


def test_a_process_that_is_killed_fails_its_run_only(sweep: Callable[..., Finished], tmp_path: Path) -> None:
    done = sweep("seed=0,1,2", "workers=2", *own_metric(tmp_path, KILL_ONE))
    assert done.code == 1, done.output
    statuses = [result["meta"]["status"] for result in results(tmp_path).values()]
    assert sorted(statuses) == ["failed", "finished", "finished"]
    (failed,) = (each["meta"] for each in results(tmp_path).values() if each["meta"]["status"] == "failed")
    assert failed["reason"] == "its process was killed (SIGKILL, as where memory runs out)"
    assert failed["reason"] in done.stderr and failed["reason"] in done.stdout


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_command_ends_its_processes(sweep: Callable[..., Finished], tmp_path: Path, name: str) -> None:
    done = sweep("seed=0,1,2", "workers=2", *own_metric(tmp_path, INTERRUPT.format(name=name)))
    assert done.code == (130 if name == "SIGINT" else 143)
    assert "interrupted; the 2 runs that are training end; the same command resumes" in done.stderr
    assert {result["meta"]["status"] for result in results(tmp_path).values()} == {"interrupted"}
    assert done.seconds < 25


@pytest.mark.slow
def test_runs_of_a_comparison_in_new_processes_equal_runs_alone(
    checkpoints: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {
        "methods": ["ia3"], "tasks": ["mrpc"], "seeds": 2, "model": "bert", "source": "offline", "threads": 1,
        "task.max_train_samples": 24, "task.max_eval_samples": 24, "train": {"num_train_epochs": 1},
        "model.checkpoint": str(checkpoints["bert"]),
    }  # fmt: skip
    caplog.set_level("INFO", "peftkit")
    (together,) = peftkit.compare(**settings, workers=2, out=str(tmp_path / "together")).entries[:1]
    assert any(text.startswith("[2/2]") for text in caplog.messages)
    (alone,) = peftkit.compare(**settings, out=str(tmp_path / "alone")).entries[:1]
    assert [run.scores for run in together.runs] == [run.scores for run in alone.runs]
    assert together.timed.keys() != alone.timed.keys()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["workers=1,2"],
            "workers=1,2: all runs of a sweep have one number of workers; use workers=2, or use workers=auto",
        ),
        (["threads=0"], "threads=0: expected a number above 0; drop it"),
        (
            ["job=bench", "workers=2"],
            "workers= is not for job=bench, only for job=finetune, job=plan, job=fetch; drop it",
        ),
    ],
)
def test_what_cannot_work_is_refused(overrides: list[str], message: str) -> None:
    assert check(["task=mrpc", "method=lora", *overrides]) == [message]


def test_one_run_of_several_processes_has_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    (message,) = check(["task=mrpc", "method=lora", "workers=2"])
    assert message == "workers=2 starts a process for each run, but these are 2 processes of one run; drop it"
