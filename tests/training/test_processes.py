"""Several processes of one run: they train as one with the same global batch, and an error of one ends all of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.two_processes import torchrun

Overrides = Callable[..., list[str]]
pytestmark = pytest.mark.slow
# fails in the process and the run that the environment names
TRACKER = """
import os, signal, time
from transformers import TrainerCallback

class Fail(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **_):
        rank, step, seed, how = os.environ["FAIL"].split()
        if (args.process_index, state.global_step, args.seed) == (int(rank), int(step), int(seed)):
            if how == "stop" and not os.path.exists("sent"):
                open("sent", "w").close()
                os.kill(os.getppid(), signal.SIGTERM)
            if how == "stop":
                return
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("No space left on device")
"""


def run(arguments: list[str], cwd: Path, processes: int = 2, **environment: str) -> tuple[int, str]:
    done = torchrun("-m", "peftkit", *arguments, cwd=cwd, processes=processes, **environment)
    return done.returncode, done.stderr


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.rglob("seed-*/result.json"))]


def losses(folder: Path) -> list[list[float]]:
    logs = sorted(folder.rglob("seed-*/log.jsonl"))
    return [
        [entry["loss"] for entry in map(json.loads, file.read_text().splitlines()) if "loss" in entry] for file in logs
    ]


@pytest.fixture
def without_dropout(checkpoints: dict[str, Path], tmp_path: Path) -> str:
    """Return the override of a checkpoint without dropout."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["bert"], folder)
    values = json.loads((folder / "config.json").read_text())
    zero = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(values | zero))
    return f"model.checkpoint={folder}"


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
@pytest.mark.parametrize("methods", ["lora,full,prefix", "adapter,qlora"])
def test_two_processes_train_as_one(
    tiny: Overrides, without_dropout: str, tmp_path: Path, methods: str, strategy: str
) -> None:
    common = [
        "-m", *tiny("bert", "task=mrpc", f"method={methods}", "seed=0", "train.bf16=false", "train.logging_steps=1"),
        f"train.train_sampling_strategy={strategy}", "task.max_train_samples=29", "task.max_eval_samples=27",
        "train.num_train_epochs=2", "train.learning_rate=1e-3", without_dropout,
    ]  # fmt: skip
    for processes, size in ((1, 12), (2, 6)):
        sizes = [f"train.per_device_train_batch_size={size}", f"out={tmp_path}/{processes}"]
        code, stderr = run([*common, *sizes], tmp_path, processes)
        assert code == 0, stderr
    found = [losses(tmp_path / name) for name in ("1", "2")]
    assert [len(each) for each in found[0]] == [6] * len(methods.split(","))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    for file in sorted((tmp_path / "1").rglob("predictions.parquet")):
        (other,) = (tmp_path / "2").rglob(f"{file.parents[1].name}/*/predictions.parquet")
        one, two = pq.read_table(file), pq.read_table(other)
        assert one["id"].to_pylist() == two["id"].to_pylist() and len(one) == 27
        np.testing.assert_allclose(one["scores"].to_pylist(), two["scores"].to_pylist(), atol=1e-4)


def test_an_error_of_one_process_fails_its_run_and_the_sweep_goes_on(tiny: Overrides, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(TRACKER)
    own = ["allow_code=[own]", "train.report_to=[own.Fail]"]
    command = ["-m", *tiny("bert", "task=mrpc", "method=ia3"), *own, "seed=0,1,2"]
    for rank in (0, 1):
        started = time.monotonic()
        code, stderr = run([*command, f"out={tmp_path}/{rank}"], tmp_path, FAIL=f"{rank} 1 1 error")
        assert code == 1 and time.monotonic() - started < 120
        found = {result["meta"]["seed"]: result["meta"] for result in results(tmp_path / str(rank))}
        assert [found[seed]["status"] for seed in (0, 1, 2)] == ["finished", "failed", "finished"], stderr
        assert found[1]["reason"].endswith("No space left on device")
        assert "SIGABRT" not in stderr


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_processes_stop_together_and_are_resumed(tiny: Overrides, tmp_path: Path, how: str) -> None:
    """torchrun forwards its signal to all of them, and sends SIGTERM to those that remain where one is killed."""
    (tmp_path / "own.py").write_text(TRACKER)
    own = ["allow_code=[own]", "train.report_to=[own.Fail]", "train.bf16=false", "train.per_device_train_batch_size=4"]
    command = [*tiny("bert", "task=mrpc", "method=ia3"), *own]
    started = time.monotonic()
    code, stderr = run([*command, f"out={tmp_path}/a"], tmp_path, FAIL=f"1 1 0 {how}")
    assert code != 0 and time.monotonic() - started < 90
    (meta,) = (result["meta"] for result in results(tmp_path / "a"))
    allowed = ("interrupted",) if how == "stop" else ("interrupted", "failed")
    assert meta["status"] in allowed, (meta["status"], meta.get("reason"), stderr)
    assert "Traceback" not in stderr.partition("torch/distributed")[0]
    assert bool([*tmp_path.rglob("checkpoint-2")]) == (how == "stop")
    for name in ("a", "b"):
        code, stderr = run([*command, f"out={tmp_path}/{name}"], tmp_path, FAIL="1 99 0 error")
        assert code == 0, stderr
    files = [next((tmp_path / name).rglob("adapter_model.safetensors")) for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_search_of_two_processes_chooses_as_one(tiny: Overrides, without_dropout: str, tmp_path: Path) -> None:
    common = [
        *tiny("bert", "task=mrpc", "method=lora", "train.bf16=false", "search.learning_rates=[1e-4,1e-3]"), without_dropout,
        "search.samples=9", "task.max_train_samples=29",
    ]  # fmt: skip
    found = []
    for processes, size in ((1, 8), (2, 4)):
        sizes = [f"train.per_device_train_batch_size={size}", f"out={tmp_path}/{processes}"]
        code, stderr = run([*common, *sizes], tmp_path, processes)
        assert code == 0, stderr
        (result,) = results(tmp_path / str(processes))
        found.append([result["search"]["chosen"], *(trial["score"] for trial in result["search"]["trials"])])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_a_launcher_that_starts_a_single_process_is_refused(tiny: Overrides, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run([*command, "-m", "peftkit", "task=mrpc"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert (
        "peftkit: accelerate launch started a single process, although several were requested; use torchrun "
        "--nproc_per_node 2 -m peftkit task=mrpc, or for a single one python -m peftkit task=mrpc" in done.stderr
    )
