"""Tasks one after the other: each run starts from the one before, and earlier tasks keep their heads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import commands
from helpers.commands import check
from helpers.interruption import broken_off

import peftkit
from peftkit import api
from peftkit.jobs.continual import _run_config
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.stats import task_score
from peftkit.pipeline.continual import ContinualScores, score_with_head, table_lines
from peftkit.results.listing import list_runs
from peftkit.results.run_result import RunResult

Overrides = Callable[..., list[str]]


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def test_the_summaries_are_those_of_the_paper() -> None:
    scores = ContinualScores(["a", "b", "c"], [[0.9], [0.7, 0.8], [0.6, 0.7, 0.5]], [0.9, 0.75, 0.6])
    record = scores.as_record()
    assert record["average"] == pytest.approx((0.6 + 0.7 + 0.5) / 3)
    assert record["backward_transfer"] == pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2)
    assert record["forward_transfer"] == pytest.approx(((0.8 - 0.75) + (0.5 - 0.6)) / 2)
    heading, *rows = table_lines(scores)
    assert heading.split() == ["after", "a", "b", "c"] and rows[1].split() == ["b", "0.700", "0.800"]


def test_each_task_starts_from_the_one_before_and_is_scored_with_its_own_head(tiny: Overrides, tmp_path: Path) -> None:
    overrides = tiny("bert", "job=continual", "tasks=[mrpc,stsb]", "method=ia3", "train.learning_rate=0.1")
    folder, begun = _trained(overrides)
    first, second, alone = begun
    found = result_of(folder)["continual"]
    top = tmp_path / "outputs"
    assert [top / name for name in found["runs"]] == [first, second, alone]
    starts = [result_of(each)["audit"].get("start") for each in begun]
    assert starts[0] is starts[2] is None and starts[1]["name"] == first.name and starts[1]["head"] == "new"
    scores = [task_score(result_of(each)["scores"]) for each in begun]
    assert found["matrix"][0] == [scores[0]] and found["matrix"][1][1] == scores[1]
    assert found["alone"] == [scores[0], scores[2]]
    assert found["matrix"][1][0] == pytest.approx(_score_by_hand(first, second))
    assert (folder / "index.html").read_text().count("<figure>") == 1
    assert _trained(overrides) == (folder, begun)
    assert {run.folder for run in collect([top])} == {*begun}
    assert {run.task for run in list_runs(top)} == {"mrpc", "stsb", "job=continual"}


def test_tasks_one_after_the_other_train_the_ranks_of_the_method_whatever_is_set_for_tasks_together(
    tiny: Overrides,
) -> None:
    (config,) = commands.choose(tiny("bert", "job=continual", "tasks=[mrpc,stsb]", "method=lora"))
    config = replace(config, multitask=replace(config.multitask, adapter="shared_and_per_task"))  # of a recipe
    runs = [_run_config(config, task, start) for task, start in zip(config.tasks or [], (None, "run"), strict=True)]
    assert [run.method.config["r"] for run in runs] == [config.method.config["r"]] * 2


def _trained(overrides: list[str]) -> tuple[Path, list[Path]]:
    """Run a command; return what the job returns, and the folders of its runs."""
    begun: list[Path] = []
    (config,) = commands.choose(overrides)
    return api.run_job(config, begun.append), begun


def _score_by_hand(head: Path, body: Path) -> float:
    """Return the score of the first run's validation examples by its head over the vectors of the second."""
    model, tokenizer = peftkit.load(head)
    other = dict(peftkit.load(body)[0].named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "ia3_l" in name:
                weight.copy_(other[name])
        table = RunResult(head).predictions()
        texts = [list(table[name]) for name in ("sentence1", "sentence2")]
        logits = model(**tokenizer(*texts, padding=True, truncation=True, return_tensors="pt")).logits
    predicted = logits.argmax(-1).numpy()
    labels = table["label"].to_numpy()
    hits = (predicted == 1) & (labels == 1)
    f1 = 2 * hits.sum() / max((predicted == 1).sum() + (labels == 1).sum(), 1)
    return float(((predicted == labels).mean() + f1) / 2)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "method"), [("gpt2", "full"), ("t5", "lora"), ("bert", "p_tuning")])
def test_a_task_scored_over_its_own_weights_has_the_score_of_its_run(tiny: Overrides, model: str, method: str) -> None:
    from peftkit.jobs.forgetting import load_scored_examples

    overrides = tiny(model, "job=continual", "tasks=[mrpc,rte]", f"method={method}")
    (config,) = commands.choose(tiny(model, "task=mrpc", f"method={method}"))
    for folder in _trained(overrides)[1]:
        run = RunResult(folder)
        found = score_with_head(run, run, load_scored_examples(config, run))
        assert found == pytest.approx(task_score(run.record["scores"]))


@pytest.mark.slow
def test_an_interrupted_sequence_goes_on_where_it_was(tiny: Overrides, tmp_path: Path) -> None:
    own = ("method=lora", "train.bf16=false", "train.save_strategy=steps", "train.save_steps=1")
    overrides = tiny("bert", "job=continual", "tasks=[mrpc,stsb]", *own)
    expected = result_of(_trained([*overrides, f"out={tmp_path}/unbroken"])[0])["continual"]
    (first,) = commands.finetune(*tiny("bert", "task=mrpc", *own))
    written = (first / "result.json").stat().st_mtime_ns
    with broken_off(2):
        _trained(overrides)  # in its second run
    folder, begun = _trained(overrides)
    assert begun[0] == first and (first / "result.json").stat().st_mtime_ns == written
    found = result_of(folder)["continual"]
    assert {name: found[name] for name in ("matrix", "alone")} == {name: expected[name] for name in ("matrix", "alone")}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["job=continual"], "job=continual trains several tasks, in their order; set tasks=[mrpc,rte,stsb]"),
        (["job=continual", "tasks=[mrpc]"], "names one task"),
        (
            ["job=continual", "tasks=[mrpc,rte]", "task.folds=3"],
            "job=continual needs the weights of each run; drop task.folds",
        ),
        (
            ["job=continual", "tasks=[mrpc,rte]", "task.domain=domain", "domains.leave_out=all"],
            "job=continual needs the weights of each run; drop domains.leave_out",
        ),
        (["job=continual", "tasks=[mrpc,rte]", "method=zero_shot", "model=gpt2"], "method=zero_shot trains nothing"),
    ],
)
def test_what_is_no_sequence_is_refused_before_anything_loads(overrides: list[str], sentence: str) -> None:
    assert any(sentence in message for message in check([*overrides, "source=offline"]))
