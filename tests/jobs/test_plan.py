"""The plan of runs: one table for a command, with an entry a run, and the totals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from peftkit.jobs.plan_record import Plan, of_other_seed
from peftkit.jobs.plan_table import show_plans
from peftkit.methods import Parameters
from peftkit.pipeline.duration import Duration
from peftkit.pipeline.memory import Memory

Overrides = Callable[..., list[str]]
PLAN = Plan(
    run="lora of minilm on mrpc (miniglue), seed 0",
    names={"task": "mrpc", "model": "minilm", "method": "lora"},
    overrides=("task=mrpc", "method=lora", "train.weight_decay=0.1", "seed=0"),
    seed=0,
    parameters=Parameters(trainable=332_546, head=770, total=22_897_922),
    examples=640, dropped=0, truncated=0, max_length=128, steps=60, trials=2, trial_steps=120, batch_size=32, accumulation=1, processes=1, epochs=3,
    tokens=1000, padding_waste=0.0, learning_rate=1e-3, bf16=False,
    memory=Memory(weights=90_000_000, optimizer=3_000_000, step=850_000_000, evaluation=500_000_000, process=60_000_000),
    imported=600_000_000,
    available=1.6e9,
    duration=Duration(loading=2.0, training=60.0, evaluation=8.0, trials=150.0),
)  # fmt: skip


def test_a_run_fits_with_its_process() -> None:
    assert not PLAN.fits  # 1.003 GB and 0.6 GB
    assert replace(PLAN, imported=0).fits
    assert replace(PLAN, available=1.7e9).fits


def test_another_seed_shares_the_trials() -> None:
    other = of_other_seed(PLAN, 1)
    assert other.run == "lora of minilm on mrpc (miniglue), seed 1" and other.seed == 1
    assert other.trials == 0 and other.duration == Duration(2.0, 60.0, 8.0, 0.0)


def test_a_table_has_an_entry_for_each_run_and_the_totals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    full = replace(
        PLAN,
        names={**PLAN.names, "method": "full"},
        overrides=("train.weight_decay=0.1",),
        memory=Memory(10, 10, 10, 10, is_measured=False),
    )
    show_plans([PLAN, of_other_seed(PLAN, 1), replace(full, duration=None)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "task",
        "method",
        "seed",
        "trained",
        "steps",
        "trials",
        "peak",
        "fits",
        "1.6",
        "GB",
        "time",
    ]
    assert lines[2].split() == ["mrpc", "lora", "0", "332,546", "60", "2", "1.00", "GB", "no", "3", "min", "40", "s"]
    assert lines[3].split() == ["mrpc", "lora", "1", "332,546", "60", "0", "1.00", "GB", "no", "1", "min", "10", "s"]
    assert "0.00 GB*" in lines[4] and "yes" in lines[4]
    # each trial has the steps of a run
    assert lines[5] == "Total: 3 runs and 4 trials, 420 steps, about 4 min 50 s; 2 do not fit."
    assert any(line.startswith("* extrapolated from one example") for line in lines)
    assert max(map(len, lines)) <= 100 and max(map(len, lines[:5])) <= 80


def test_settings_in_which_runs_differ_are_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    show_plans([PLAN, replace(PLAN, overrides=("task=mrpc", "method=lora", "train.weight_decay=0", "seed=0"))])
    lines = capsys.readouterr().out.splitlines()
    assert "settings" in lines[0] and "train.weight_decay=0.1" in lines[2] and "train.weight_decay=0 " in lines[3]


def test_a_single_plan_is_shown_by_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show_plans([replace(PLAN, duration=None)])
    shown = capsys.readouterr().out
    assert "fits 1.6 GB  no" in shown and "plan.measure=true" in shown


@pytest.mark.slow
def test_seeds_are_planned_once(tiny: Overrides) -> None:
    overrides = tiny("bert", "task=mrpc", "method=ia3,lora", "seed=0,1", "job=plan", "plan.memory_gb=12")
    done = subprocess.run([sys.executable, "-m", "peftkit", "-m", *overrides], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" ia3 ") == done.stdout.count(" lora ") == 2
    assert "fits 12 GB" in done.stdout and "Total: 4 runs, 12 steps; all fit." in done.stdout
    assert done.stderr.count("DATA: miniglue") == 2  # read for each method, not for each seed


@pytest.mark.slow
def test_a_fold_is_measured_on_its_own_examples(tiny: Overrides) -> None:
    overrides = tiny("bert", "task=mrpc", "method=lora", "task.folds=3", "task.fold=0", "job=plan", "plan.measure=true")
    overrides = [each for each in overrides if not each.startswith("task.max_eval_samples")]
    done = subprocess.run([sys.executable, "-m", "peftkit", *overrides], capture_output=True, text=True)
    assert done.returncode == 0 and "evaluation" in done.stdout, done.stderr
