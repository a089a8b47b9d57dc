"""Identical commands at the same time: the run is trained once, and each command ends with its scores."""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import commands
from helpers.fork_server import ForkServer
from helpers.simultaneous import Ended, run_together
from helpers.unbroken import learned

from peftkit.results import locks

Overrides = Callable[..., list[str]]


def runs(out: Path) -> list[Path]:
    """Return the run folders, in which nothing is left of a lock or a write."""
    left = [file for file in out.rglob(".*") if file.name != ".hydra"]
    assert not left
    return sorted(file.parent for file in out.rglob("result.json"))


def trained(ended: list[Ended], name: str = "lora on") -> int:
    assert all(each.code == 0 for each in ended), "\n\n".join(each.stderr for each in ended)
    return sum(line.startswith(name) for each in ended for line in each.stderr.splitlines())


def test_a_second_command_waits_and_finds_the_run_finished(
    tiny: Overrides, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "QUIET_SECONDS", 0.1)
    overrides = tiny("bert", "task=mrpc")
    (folder,) = commands.finetune(*overrides)
    aside = (folder / "result.json").rename(folder.parent / "result.json")
    is_locked, is_waiting = threading.Event(), threading.Event()
    monkeypatch.setattr(locks, "log", lambda text: (print(text, file=sys.stderr), is_waiting.set()))

    def finish() -> None:
        with locks.locked_folder(folder):
            is_locked.set()
            is_waiting.wait(60)
            aside.rename(folder / "result.json")

    thread = threading.Thread(target=finish)
    thread.start()
    is_locked.wait()
    capsys.readouterr()
    commands.finetune(*overrides)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"waiting for process {os.getpid()} on ") and str(folder) in first
    assert second.startswith(f"finished already: {folder}, ")
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_a_pair_trains_once(tiny: Overrides, fork_server: ForkServer, tmp_path: Path, number: int) -> None:
    command = tiny("bert", "task=mrpc", "train.num_train_epochs=8")
    offset = random.Random(number).uniform(0, 3)
    ended = run_together(fork_server, tmp_path, (0, command), (offset, command))
    assert trained(ended) == 1
    assert sum("finished already: " in each.stderr for each in ended) == 1
    (folder,) = runs(tmp_path / "outputs")
    found = learned(folder)
    (alone,) = run_together(fork_server, tmp_path, (0, [*command, f"out={tmp_path}/alone"]))
    assert alone.code == 0
    (other,) = runs(tmp_path / "alone")
    assert learned(other) == found and other.name == folder.name


@pytest.mark.slow
def test_a_pair_of_sweeps_trains_each_run_once(tiny: Overrides, fork_server: ForkServer, tmp_path: Path) -> None:
    command = ["-m", *tiny("bert", "task=mrpc", "train.num_train_epochs=8"), "seed=0,1,2,3"]
    ended = run_together(fork_server, tmp_path, (0, command), (0.5, command))
    assert trained(ended) == 4
    assert len([learned(folder) for folder in runs(tmp_path / "outputs")]) == 4
    assert any("is written by process" in each.stderr and "; this run comes last" in each.stderr for each in ended)


@pytest.mark.slow
def test_a_search_and_its_pair_share_the_trials(tiny: Overrides, fork_server: ForkServer, tmp_path: Path) -> None:
    command = tiny("bert", "task=mrpc", "search.lr_multipliers=[1,3]", "search.samples=8", "train.num_train_epochs=4")
    ended = run_together(fork_server, tmp_path, (0, [*command, "seed=0"]), (0.2, [*command, "seed=1"]))
    assert trained(ended) == 4  # two trials and two seeds
    assert len(runs(tmp_path / "outputs")) == 4


@pytest.mark.slow
def test_pairs_of_other_jobs_write_whole_files(tiny: Overrides, fork_server: ForkServer, tmp_path: Path) -> None:
    train = tiny("bert", "task=sst2", "calibration.holdout=0.25")
    (run,) = run_together(fork_server, tmp_path, (0, train))
    assert run.code == 0, run.stderr
    (folder,) = runs(tmp_path / "outputs")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"sentence": f"a film of {n} minutes"}) + "\n" for n in range(200)))
    of_run, given = [f"run={folder}"], f"input={rows}"
    jobs = {
        "evaluate": (["job=evaluate", *of_run, "source=offline"], [folder / "evaluation-sst2.json", folder / "predictions-sst2.parquet"]),
        "predict": (["job=predict", *of_run, given, f"output={tmp_path}/p.jsonl"], [tmp_path / "p.jsonl"]),
        "embed": (["job=embed", *of_run, given, "embed.column=sentence", f"output={tmp_path}/e.npy"], [tmp_path / "e.npy"]),
        "merge": (["job=merge", *of_run], [folder / "merged" / "model.safetensors"]),
        "leaderboard": (["job=leaderboard", f"out={tmp_path}/outputs"], [tmp_path / "outputs/leaderboard/leaderboard.csv"]),
    }  # fmt: skip
    for name, (command, files) in jobs.items():
        trained([*run_together(fork_server, tmp_path, (0, command), (0.1, command))])
        together = [file.read_bytes() for file in files]
        trained([*run_together(fork_server, tmp_path, (0, command))])
        alone = [file.read_bytes() for file in files]
        if name == "evaluate":  # it has the seconds that it took
            together, alone = together[1:], alone[1:]
        assert together == alone, name
    runs(tmp_path / "outputs")
