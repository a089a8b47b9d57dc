"""A signal to a command that trains: a checkpoint, an interrupted run, its exit code; the same command completes it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.fork_server import Finished, ForkServer

Overrides = Callable[..., list[str]]
# sends signals once, at the start of the second step of a run
TRACKER = """
import os, signal
from pathlib import Path
from transformers import TrainerCallback

class Send(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 1 and not Path("sent").exists():
            Path("sent").touch()
            for name in {names}:
                os.kill(os.getpid(), getattr(signal, name))
"""


@pytest.fixture
def command(tiny: Overrides, fork_server: ForkServer, tmp_path: Path) -> Callable[..., Finished]:
    """Return a function that runs a command whose training gets signals once."""

    def run(*more: str, signals: tuple[str, ...] = ("SIGTERM",)) -> Finished:
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / "__init__.py").write_text(TRACKER.format(names=repr(signals)))
        own = ["allow_code=[own]", "train.report_to=[own.Send]"]
        return fork_server.run([*tiny("bert", "task=mrpc", "method=lora"), *own, *more], tmp_path)

    return run


def metas(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text())["meta"] for file in sorted(folder.rglob("result.json"))]


def weights(folder: Path) -> bytes:
    (file,) = folder.rglob("adapter_model.safetensors")
    return file.read_bytes()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SIGTERM", 143),
        pytest.param("SIGINT", 130, marks=pytest.mark.slow),
        pytest.param("SIGHUP", 129, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_interrupted_is_completed_to_the_bit(
    command: Callable[..., Finished], tmp_path: Path, name: str, code: int
) -> None:
    stopped = command(f"out={tmp_path}/a", signals=(name,))
    assert stopped.code == code, stopped.output
    assert f"{name}: a checkpoint is written after this step" in stopped.stderr
    assert stopped.stderr.endswith("peftkit: interrupted; the same command resumes from the last checkpoint\n")
    (meta,) = metas(tmp_path / "a")
    assert (meta["status"], meta["reason"]) == ("interrupted", f"interrupted by {name}")
    assert [folder.name for folder in tmp_path.rglob("checkpoint-*")] == ["checkpoint-2"]
    for name in ("a", "b"):
        assert command(f"out={tmp_path}/{name}").code == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_a_second_signal_stops_at_once_and_a_sweep_with_it(command: Callable[..., Finished], tmp_path: Path) -> None:
    stopped = command("-m", "seed=0,1", signals=("SIGTERM", "SIGTERM"))
    assert stopped.code == 143
    assert [meta["status"] for meta in metas(tmp_path)] == ["interrupted"]
    assert not [*tmp_path.rglob("checkpoint-*")]


@pytest.mark.slow
def test_an_epoch_that_ends_with_the_signal_is_evaluated_before(
    command: Callable[..., Finished], tmp_path: Path
) -> None:
    more = ["early_stopping.patience=2", "train.num_train_epochs=3", "train.per_device_train_batch_size=12"]
    assert command(*more, f"out={tmp_path}/a").code == 143  # at the second of two steps
    for name in ("a", "b"):
        assert command(*more, f"out={tmp_path}/{name}").code == 0
    logs = [
        [
            {key: entry[key] for key in entry if key in ("step", "loss", "eval_score", "epoch")}
            for entry in map(json.loads, next((tmp_path / name).rglob("log.jsonl")).read_text().splitlines())
        ]
        for name in ("a", "b")
    ]
    assert logs[0] == logs[1]
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


@pytest.mark.slow
def test_a_terminal_interrupts_the_command_only(tiny: Overrides, tmp_path: Path) -> None:
    """Ctrl-C reaches all processes of the terminal's group; the verifier has a session of its own."""
    command = [
        sys.executable,
        "-m",
        "peftkit",
        *tiny("bert", "task=mrpc", "method=lora", "train.num_train_epochs=4000"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path)
    while not list(tmp_path.rglob("log.jsonl")):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr
    _, alive = psutil.wait_procs(children, timeout=10)
    assert children and not alive
    assert list(tmp_path.rglob("checkpoint-*"))
