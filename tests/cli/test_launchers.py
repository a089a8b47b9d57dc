"""A launcher with processes of its own ends with the same table and exit code as Hydra's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

Overrides = Callable[..., list[str]]


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
    assert "2 of 2 runs without scores" in failed.stdout
