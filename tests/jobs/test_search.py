"""Every method gets the same number of trials, scored on held-out training examples."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import commands
from helpers.commands import check
from helpers.two_processes import torchrun

from peftkit.config import RunConfig, UserError
from peftkit.config.search_space import Candidate, candidates
from peftkit.data.datasets import CALIBRATION_SPLIT, SEARCH_SPLIT, load_task_dataset
from peftkit.jobs.search import search, trial_config
from peftkit.leaderboard.stats import task_score
from peftkit.results.run_folder import run_id, write_result

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
    done = torchrun("-m", "peftkit", *tiny("bert", *SEARCH), cwd=tmp_path)
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


def trial_results(folder: Path, scores: dict[float, list[float | None]]) -> tuple[Callable, list[tuple[float, float]]]:
    """Return a function that writes the result of a trial by its rate and epochs, and the list of its calls."""
    tried: list[tuple[float, float]] = []

    def train(config: RunConfig) -> Path:
        rate, epochs = (float(config.train[name]) for name in ("learning_rate", "num_train_epochs"))
        tried.append((rate, epochs))
        score = scores[rate][sum(each == rate for each, _ in tried) - 1]
        if score is None:
            raise ValueError("training diverged")
        write_result(
            folder,
            {
                "scores": {"accuracy": {"value": score, "higher_is_better": True}},
                "costs": {"train_seconds": 2.0 * epochs, "eval_seconds": 1.0, "epochs": epochs},
                "audit": {"rows": {"train": 100}},
                "meta": {"status": "finished"},
                "curve": [{"epoch": epochs, "seconds": 1.0, "score": score}],
            },
        )
        return folder

    return train, tried


def test_halving_promotes_the_best_third_and_counts_the_examples_seen(tmp_path: Path) -> None:
    rates = ",".join(str(rate) for rate in range(1, 10))
    overrides = ["task=mrpc", "method=lora", "train.learning_rate=4", f"search.learning_rates=[{rates}]"]
    run = RunConfig.from_config(config([*overrides, "search.halving_factor=3", f"out={tmp_path}"]))
    first = [0.5, 0.7, 0.6, 0.7, 0.7, 0.2, None, 0.7, 0.1]  # of 2, 4, 5 and 8 with one score, 4 and 5 are nearest to 4
    later = {4.0: 0.60, 5.0: 0.62, 2.0: None}
    train, tried = trial_results(tmp_path, {n + 1.0: [score, later.get(n + 1.0)] for n, score in enumerate(first)})
    found, best = search(run, train)
    assert tried == [(n + 1.0, 3 / 9) for n in range(9)] + [(4.0, 1.0), (5.0, 1.0), (2.0, 1.0)]
    assert (best, found["chosen"]) == (Candidate(5.0), 5.0)
    assert found["rounds"] == [{"trials": 9, "examples_seen": 33}, {"trials": 3, "examples_seen": 100}]
    assert [trial["score"] for trial in found["trials"]] == [0.5, None, 0.6, 0.60, 0.62, 0.2, None, 0.7, 0.1]
    assert [trial["examples_seen"] for trial in found["trials"]] == [33, None, 33, 100, 100, 33, None, 33, 33]
    assert found["curve"] is None and found["seconds"] == pytest.approx(8 * (2 / 3 + 1) + 2 * 3)
    train, _ = trial_results(tmp_path, {n + 1.0: [None] for n in range(9)})
    with pytest.raises(RuntimeError, match=r"every trial failed, .* training diverged"):
        search(run, train)


def test_the_trials_of_all_seeds_are_one_choice(tiny: Overrides) -> None:
    first, second = (RunConfig.from_config(config(tiny("bert", *SEARCH, f"seed={seed}"))) for seed in (0, 1))
    assert [each.learning_rate for each in candidates(first)] == [0.003, 0.03, 0.3]
    for each in candidates(first):
        assert trial_config(first, each) == trial_config(second, each)


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


def test_keys_that_were_added_to_a_search_change_no_id(tiny: Overrides) -> None:
    values = config(tiny("bert", *SEARCH))
    earlier = {**values, "search": {name: values["search"][name] for name in ("lr_multipliers", "samples")}}
    earlier["method"] = {name: value for name, value in values["method"].items() if name != "loraplus_lr_ratio"}
    del earlier["plan"]
    now, before = (RunConfig.from_config(each) for each in (values, earlier))
    assert run_id(now, {}, {}) == run_id(before, {}, {})
    searched = RunConfig.from_config({**values, "search": {**values["search"], "learning_rates": [1e-3]}})
    assert run_id(searched, {}, {}) != run_id(now, {}, {})


@pytest.mark.slow
def test_every_method_gets_the_same_number_of_trials_and_the_next_command_works(tiny: Overrides) -> None:
    grid = ["search.learning_rates=[1e-3,1e-2]", "search.config.r=[2,4]", "search.samples=20"]
    command = ["-m", *tiny("bert", "task=mrpc", "method=lora,ia3", *grid)]
    done = subprocess.run([sys.executable, "-m", "peftkit", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ia3 has no r: it tries 4 learning rates instead" in done.stderr
    (out,) = [word.removeprefix("out=") for word in command if word.startswith("out=")]
    results = [json.loads(file.read_text()) for file in Path(out).rglob("seed-*/result.json")]
    lora, ia3 = sorted(results, key=lambda result: result["run"]["config"]["method"]["name"], reverse=True)
    tried = [(trial["learning_rate"], trial["config"]["r"]) for trial in lora["search"]["trials"]]
    assert tried == [(0.001, 2), (0.01, 2), (0.001, 4), (0.01, 4)]
    assert [trial["learning_rate"] for trial in ia3["search"]["trials"]] == [0.001, 0.00215, 0.00464, 0.01]
    assert ia3["search"]["lacking"] == ["r"] and "lacking" not in lora["search"]
    best = max(trial["score"] for trial in lora["search"]["trials"])
    chosen = lora["search"]["chosen"], lora["search"]["chosen_config"]["r"]
    assert lora["search"]["trials"][tried.index(chosen)]["score"] == best
    config = lora["run"]["config"]
    assert chosen == (config["train"]["learning_rate"], config["method"]["config"]["r"])
    # two values each: the best of lora is at an end of both, and the command extends them
    (following,) = [line for line in done.stderr.splitlines() if line.startswith("next: python -m peftkit ")]
    typed = shlex.split(following.removeprefix("next: python -m peftkit "))
    assert typed[0] == "-m" and check([word for word in typed if word != "-m"]) == []
    assert len([word for word in typed if word.startswith("search.config.r=[")]) == 1
    assert lora["search"]["extended"]["search.config.r"] in ([1, 2, 4], [2, 4, 8])
