"""workers=auto trains as many runs at the same time as cores, runs, memory and GPUs allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import check, choose
from helpers.fork_server import ForkServer

from peftkit.config import RunConfig
from peftkit.jobs import workers
from peftkit.jobs.workers import gpu_environments, number_of_workers, with_workers
from peftkit.pipeline import memory

Overrides = Callable[..., list[str]]


def config_of(*overrides: str) -> RunConfig:
    (config,) = choose(["task=mrpc", "method=lora", "workers=auto", *overrides])
    return config


@pytest.mark.parametrize(
    ("cores", "runs", "free", "peaks", "number", "reason"),
    [
        (4, 9, 20e9, [1e9, 2e9], 4, "cores"),
        (4, 3, 20e9, [1e9, 2e9], 3, "runs"),
        (4, 9, 10e9, [1e9, 4e9], 2, "memory: 4,000 MB a run, 9,000 MB free"),
        (4, 9, 2e9, [4e9], 1, "memory: 4,000 MB a run, 1,800 MB free"),
        (4, 9, 2e9, [float("inf")], 1, "memory: inf MB a run, 1,800 MB free"),
        (4, 9, float("inf"), [4e9], 4, "cores"),
        (4, 9, 2e9, [], 4, "cores"),  # none could be planned
        (1, 9, 2e9, None, 1, "cores"),  # not planned
    ],
)
def test_the_smallest_limit_decides(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cores: int,
    runs: int,
    free: float,
    peaks: list[float] | None,
    number: int,
    reason: str,
) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: cores)
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    monkeypatch.setattr(workers, "_peaks", lambda *_: peaks)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert number_of_workers([config_of()], runs, can_fork=False) == number
    assert capsys.readouterr().err == f"workers=auto: {number} of {runs} runs at a time, limited by the {reason}\n"


def test_each_run_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: 8)
    for module in (torch.accelerator, torch.cuda):
        monkeypatch.setattr(module, "is_available", lambda: True)
        monkeypatch.setattr(module, "device_count", lambda: 2)
    assert number_of_workers([config_of()], 5, can_fork=True) == 2
    assert "2 of 5 runs at a time, limited by the GPUs" in capsys.readouterr().err
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_environments() == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert gpu_environments() == [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]


def test_the_number_sets_the_threads_of_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: 8)
    found = with_workers(config_of(), 9, auto=2)
    assert (found.workers, found.threads) == (2, 4)
    found = with_workers(config_of(), 9, auto=1)
    assert (found.workers, found.threads) == (None, 8)
    assert with_workers(config_of("threads=3"), 9, auto=2).threads == 3
    assert with_workers(replace(config_of(), job="plan"), 9).workers is None


def test_a_single_run_needs_no_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert number_of_workers([config_of()], 1, can_fork=False) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_runs_are_planned_in_another_process(tiny: Overrides, fork_server: ForkServer, tmp_path: Path) -> None:
    command = ["-m", *tiny("bert", "task=mrpc"), "method=ia3,lora", "seed=0,1", "workers=auto"]
    done = fork_server.run(command, tmp_path)
    assert done.code == 0, done.output
    assert "of 4 runs at a time, limited by the" in done.stderr and "[4/4]" in done.stderr


def test_the_memory_does_not_depend_on_seed_and_rate() -> None:
    first = config_of("seed=0", "train.learning_rate=1e-4")
    other = config_of("seed=1", "train.learning_rate=1e-3", "train.num_train_epochs=1")
    larger: Any = config_of("train.per_device_train_batch_size=64")
    assert workers._without_rates(first) == workers._without_rates(other) != workers._without_rates(larger)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("workers=0", "workers=0: expected a number above 0, or auto; drop it"),
        ("workers=all", "workers=all: expected an int or auto or null"),
    ],
)
def test_another_value_is_refused(override: str, message: str) -> None:
    assert check(["task=mrpc", "method=lora", override]) == [message]
