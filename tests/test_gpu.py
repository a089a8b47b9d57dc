"""The checks of tests/benchmarks/gpu.py on a GPU, and on a CPU those that it can do."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers import commands

import peftkit

SCRIPT = Path(__file__).parent / "benchmarks" / "gpu.py"
NEEDS_GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no NVIDIA GPU with CUDA: torch.cuda.is_available()"
)
Overrides = Callable[..., list[str]]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_checks", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules["gpu_checks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("model", ["bert", "gpt2", "t5"])
def test_a_run_trains_on_the_gpu_and_its_model_predicts_there(tiny: Overrides, model: str) -> None:
    (folder,) = commands.finetune(*tiny(model, "task=sst2", "method=lora"))
    record = json.loads((folder / "result.json").read_text())
    assert record["meta"]["device"].startswith("cuda") and record["gates"]["reload_difference"] <= 1e-4
    assert record["costs"]["train_peak_bytes"] <= record["costs"]["train_reserved_bytes"]
    assert peftkit.predict(folder, ["a fine film"])[0].prediction in ("positive", "negative")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="make check-gpu runs the checks on the GPU")
def test_the_checks_that_a_cpu_can_do_pass(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    outcomes = {each["check"]: each["outcome"] for each in found["checks"]}
    skipped = {name for name, outcome in outcomes.items() if outcome == "skipped"}
    assert skipped == {"qlora", "compilation", "memory"} and {*outcomes.values()} == {"passed", "skipped"}
    page = (tmp_path / "gpu.md").read_text()
    assert page.startswith("# GPU checks\n\nGPU: none: these are the checks that a CPU can do")
    assert all("needs a GPU" in each["reason"] for each in found["checks"] if each["outcome"] == "skipped")


def test_a_failed_check_is_in_the_page(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(machine: object) -> dict:
        """It fails."""
        raise AssertionError("1 | 2")

    monkeypatch.setitem(script.CHECKS, "fails", fails)
    found = [script.run_check("fails", None)]
    assert (found[0]["outcome"], found[0]["reason"]) == ("failed", "AssertionError: 1 | 2")
    page = script.page_of(script.describe_machine("cpu"), found)
    assert "| fails | failed: AssertionError: 1 | 2 | 0 |" in page.replace("\\|", "|")
