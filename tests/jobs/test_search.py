"""Every method gets the same number of trials, scored on held-out training examples."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import commands
from helpers.commands import check

from peftkit.config import RunConfig, UserError
from peftkit.data.datasets import CALIBRATION_SPLIT, SEARCH_SPLIT, load_task_dataset
from peftkit.jobs.finetune import rates, trial_config
from peftkit.leaderboard.stats import task_score
from peftkit.results.run_folder import run_id

Overrides = Callable[..., list[str]]
SEARCH = ("task=mrpc", "method=ia3", "search.lr_multipliers=[0.1,1,10]", "search.samples=20")


def config(overrides: list[str]) -> dict:
    from helpers.commands import compose_config
    from omegaconf import OmegaConf

    return OmegaConf.to_container(compose_config(overrides), resolve=True)  # type: ignore[return-value]


def test_the_seeds_of_a_row_share_their_trials_and_take_the_best_rate(tiny: Overrides) -> None:
    commands.finetune(*tiny("bert", *SEARCH, "seed=0"))
    before = {file: file.stat().st_mtime_ns for file in trials(tiny)}
    (folder,) = commands.finetune(*tiny("bert", *SEARCH, "seed=1"))
    assert {file: file.stat().st_mtime_ns for file in trials(tiny)} == before
    result = json.loads((folder / "result.json").read_text())
    found = {trial["learning_rate"]: trial["score"] for trial in result["search"]["trials"]}
    assert list(found) == [0.003, 0.03, 0.3]
    assert result["search"]["chosen"] == result["run"]["config"]["train"]["learning_rate"]
    assert found[result["search"]["chosen"]] == max(found.values())
    for file in before:
        check_trial(file)


@pytest.mark.slow
def test_two_processes_search_together(tiny: Overrides, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "peftkit"]
    done = subprocess.run([*command, *tiny("bert", *SEARCH)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(trials(tiny)) == 3


def check_trial(file: Path) -> None:
    """A trial keeps no weights, names its own command, and is followed epoch by epoch."""
    assert not (file.parent / "adapter").exists()
    result = json.loads(file.read_text())
    assert f"train.learning_rate={result['run']['config']['train']['learning_rate']}" in result["run"]["overrides"]
    assert result["audit"]["rows"] == {"train": 24, SEARCH_SPLIT: 20}
    assert [point["epoch"] for point in result["curve"]] == [1.0]
    assert result["curve"][0]["score"] == pytest.approx(task_score(result["scores"]))


def trials(tiny: Overrides) -> list[Path]:
    (out,) = [word.removeprefix("out=") for word in tiny("bert") if word.startswith("out=")]
    found = sorted(Path(out).rglob("trial-*/result.json"))
    assert len(found) == 3
    return found


def test_a_trial_is_scored_on_training_rows_it_was_not_trained_on(tiny: Overrides) -> None:
    run = RunConfig.from_config(config(tiny("bert", "task=mrpc")))
    whole = load_task_dataset(run.task, None, "offline")
    tried = load_task_dataset(run.task, None, "offline", search_samples=100)
    (train, validation) = (set(tried.splits[name]["id"]) for name in ("train", SEARCH_SPLIT))
    assert (len(train), len(validation)) == (24, 100)
    assert not train & validation
    assert train == set(whole.splits["train"]["id"])  # what trains is what the rows of validation are held against


@pytest.mark.parametrize("limit", [100, None])
def test_examples_of_a_calibration_are_neither_trained_on_nor_scored_in_a_trial(
    tiny: Overrides, limit: int | None
) -> None:
    overrides = [each for each in tiny("bert", "task=mrpc") if "samples" not in each]
    task = RunConfig.from_config(config([*overrides, f"task.max_train_samples={limit or 'null'}"])).task
    whole, run = (load_task_dataset(task, None, "offline", calibration=each).splits for each in (None, 0.1))
    tried = load_task_dataset(task, None, "offline", search_samples=100, calibration=0.1).splits
    train, held_out = ({*run[name]["id"]} for name in ("train", CALIBRATION_SPLIT))
    assert not train & held_out and train | held_out == {*whole["train"]["id"]}
    assert len(held_out) == math.ceil(len(whole["train"]) / 10) and run["validation"]["id"] == whole["validation"]["id"]
    trained, scored = ({*tried[name]["id"]} for name in ("train", SEARCH_SPLIT))
    assert not held_out & (trained | scored) and not trained & scored and len(scored) == 100
    assert len(trained) == len(train) - (100 if limit is None else 0)


@pytest.mark.slow
def test_a_rate_that_fails_counts_as_tried_and_is_not_chosen(tiny: Overrides, monkeypatch: pytest.MonkeyPatch) -> None:
    from peftkit import training

    whole = training.fit

    def diverge(trainer, checkpoints):
        if trainer.args.learning_rate < 0.01:
            raise ValueError("training diverged")
        return whole(trainer, checkpoints)

    monkeypatch.setattr(training, "fit", diverge)
    (folder,) = commands.finetune(*tiny("bert", *SEARCH, "search.lr_multipliers=[0.1,1]"))
    found = json.loads((folder / "result.json").read_text())["search"]
    assert [trial["status"] for trial in found["trials"]] == ["failed: training diverged", "finished"]
    assert found["trials"][0]["score"] is None and found["chosen"] == 0.03


def test_a_trial_by_itself_warns_of_substitutes_and_repeats_its_score(
    tiny: Overrides, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = tiny("bert", "task=mrpc", "method=ia3", "trial=true", "search.samples=20")
    (folder,) = commands.finetune(*overrides)
    assert "!! DATA: " in capsys.readouterr().err
    assert commands.finetune(*overrides) == [folder]
    score = json.loads((folder / "result.json").read_text())["scores"]["accuracy"]["value"]
    assert f"finished already: {folder}, accuracy {score:.3f}" in capsys.readouterr().err


def test_the_trials_of_all_seeds_are_one_choice(tiny: Overrides) -> None:
    first, second = (RunConfig.from_config(config(tiny("bert", *SEARCH, f"seed={seed}"))) for seed in (0, 1))
    assert rates(first) == [0.003, 0.03, 0.3]
    assert trial_config(first, 0.03) == trial_config(second, 0.03)


def test_rows_that_leave_too_few_to_train_on_are_refused(tiny: Overrides) -> None:
    run = RunConfig.from_config(config(tiny("bert", "task=mrpc")))
    with pytest.raises(UserError, match=r"leaves too few to train on; set search\.samples="):
        load_task_dataset(run.task, None, "offline", search_samples=10_000)


def test_a_trial_that_searches_and_a_factor_of_nothing_are_refused() -> None:
    assert any("searches none" in sentence for sentence in check(["trial=true", "search.lr_multipliers=[1,3]"]))
    assert any("search.lr_multipliers" in sentence for sentence in check(["search.lr_multipliers=[0,1]"]))


def test_a_search_that_is_none_is_no_part_of_a_run_s_id(tiny: Overrides) -> None:
    plain, other = (config(tiny("bert", "task=mrpc", f"search.samples={rows}")) for rows in (20, 30))
    ids = [run_id(RunConfig.from_config(each), {}, {}) for each in (plain, other, {**plain, "trial": True})]
    assert ids[0] == ids[1] != ids[2]
    earlier = {name: value for name, value in plain.items() if name not in ("trial", "search")}
    with pytest.raises(UserError, match="this config is of another version of peftkit"):
        RunConfig.from_config(earlier)
