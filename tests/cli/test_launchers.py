"""A launcher with processes of its own ends with the same table and exit code as Hydra's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

Overrides = Callable[..., list[str]]
Found = TypeVar("Found")


def wait_for(look: Callable[[], Found | None], seconds: float = 120) -> Found:
    """Return what is found within this time."""
    end = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "package"), [("submitit_local", "submitit"), ("ray", "ray")])
def test_runs_of_another_launcher_are_shown_and_failures_reported(tiny: Overrides, launcher: str, package: str) -> None:
    pytest.importorskip(package, reason=f"pip install 'peftkit[{'ray' if package == 'ray' else 'slurm'}]'")
    command = [sys.executable, "-m", "peftkit", "-m", f"hydra/launcher={launcher}"]
    overrides = tiny("bert", "method=ia3", "task=mrpc", "train.bf16=false")
    done = subprocess.run([*command, *overrides, "seed=0,1"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "ia3" in done.stdout and " 2 " in done.stdout
    again = subprocess.run([*command, *overrides, "seed=1,4"], capture_output=True, text=True)
    assert again.returncode == 0
    assert "ia3" in again.stdout and " 2 " in again.stdout  # the finished one, and the new one
    failed = subprocess.run(
        [*command, *overrides, "seed=2,3", "train.learning_rate=1e30", "train.max_grad_norm=0"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert failed.returncode == 1
    assert "2 of 2 runs without valid scores" in failed.stdout


@pytest.mark.slow
def test_a_killed_worker_fails_the_sweep_and_the_same_command_completes_it(tiny: Overrides, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="pip install 'peftkit[slurm]'")
    command = [sys.executable, "-m", "peftkit", "-m", "hydra/launcher=submitit_local"]
    command += tiny("bert", "method=ia3", "task=mrpc", "train.bf16=false", "train.num_train_epochs=50", "seed=0,1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sweep:
        file = wait_for(lambda: next(iter(tmp_path.rglob("seed-0-*/log.jsonl")), None))
        workers = subprocess.run(["pgrep", "-f", f"submitit.core._submit {tmp_path}"], capture_output=True, text=True)
        for worker in workers.stdout.split():
            os.kill(int(worker), signal.SIGKILL)
        printed, _ = sweep.communicate()
    assert sweep.returncode == 1
    assert "2 of 2 runs" in printed
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    results = [json.loads(each.read_text(encoding="utf-8")) for each in tmp_path.rglob("seed-*/result.json")]
    assert [each["meta"]["status"] for each in results] == ["finished", "finished"]
    assert {each["costs"]["epochs"] for each in results} == {50.0}
    assert len(list(file.parents[1].iterdir())) == 2  # no second folder of a seed


@pytest.mark.slow
def test_the_runs_of_another_launcher_end_with_a_command_that_is_interrupted(tiny: Overrides, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="pip install 'peftkit[slurm]'")
    command = [sys.executable, "-m", "peftkit", "-m", "hydra/launcher=submitit_local", "seed=0,1"]
    command += tiny("bert", "method=ia3", "task=mrpc", "train.bf16=false", "train.num_train_epochs=4000")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: len([*tmp_path.rglob("log.jsonl")]) == 2 or None)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr
    deadline, files = time.monotonic() + 60, [*tmp_path.rglob("result.json")]
    statuses: set[str] = set()
    while statuses != {"interrupted"} and time.monotonic() < deadline:
        time.sleep(0.5)
        statuses = {json.loads(file.read_text())["meta"]["status"] for file in files}
    assert statuses == {"interrupted"} and len([*tmp_path.rglob("checkpoint-*")]) == 2
