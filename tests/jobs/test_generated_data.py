"""task.dataset=self_instruct: tasks are generated once, and shared by the runs that need the same."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import commands
from omegaconf import OmegaConf

from peftkit.cli import check, compose_config
from peftkit.config import RunConfig, UserError
from peftkit.jobs.generated_data import _wait
from peftkit.leaderboard.reading import collect
from peftkit.results import run_folder

Overrides = Callable[..., list[str]]
CHAIN = [
    "recipe=sft_self_instruct",
    "generate.num_instructions=12",
    "method=lora",
    "task.max_length=96",
    "task.max_target_length=8",
]


def run(overrides: list[str]) -> Path:
    assert check(overrides) == []
    folder = commands.run(overrides, "sft_self_instruct")
    assert folder is not None
    return folder


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("overrides", "answer"),
    [
        (["generate.algorithm=evol_instruct"], "set generate.algorithm=self_instruct"),
        (["generate.generator=endpoint"], "set generate.base_url=http://127.0.0.1:8000/v1"),
        (["generate.model=./nowhere"], "generate.model=./nowhere: no such folder"),
        (["generate.decontaminate=[mrcp]"], "did you mean mrpc?"),
        (["model=bert"], "model=bert (encoder) has no head"),
    ],
)
def test_mistakes_are_refused_before_any_request(overrides: list[str], answer: str) -> None:
    assert any(answer in sentence for sentence in check(["recipe=sft_self_instruct", *overrides]))


def test_an_evaluation_generates_nothing() -> None:
    overrides = ["job=evaluate", "run=x", "task=instructions", "task.dataset=self_instruct"]
    assert any("set task.dataset=outputs/generate/" in sentence for sentence in check(overrides))


def test_a_plan_generates_nothing(tiny: Overrides) -> None:
    overrides = tiny("gpt2", *CHAIN, "job=plan")
    with pytest.raises(UserError, match="run job=generate seed=0 first"):
        commands.run(overrides)


def test_a_lower_number_does_not_train_on_the_tasks_of_a_higher_one(tiny: Overrides) -> None:
    overrides = tiny("gpt2", *CHAIN, "generate.batch=4", "job=plan")
    with pytest.raises(UserError) as missing:
        commands.run(overrides)
    folder = Path(str(missing.value).partition(": its tasks")[0])
    config = {"generate": {"num_instructions": 600}}
    run_folder.write_result(
        folder, {"run": {"config": config}, "counts": {"kept": 602}, "meta": {"status": "finished"}}
    )
    with pytest.raises(
        UserError,
        match=r"has 602 tasks, more than generate.num_instructions=12; use generate.num_instructions=600, or out=FOL",
    ):
        commands.run(overrides)


def test_waiting_ends_when_the_main_process_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config: Any = OmegaConf.to_container(compose_config(CHAIN), resolve=True)
    settings = RunConfig.from_config(config).generate
    assert settings is not None
    run_folder.write_result(tmp_path, {"meta": {"status": "failed", "reason": "the server is gone"}})
    later = time.time() + 60  # an older failure does not count
    os.utime(tmp_path / "result.json", (later, later))
    with pytest.raises(UserError, match="generation failed: the server is gone"):
        _wait(tmp_path, settings)
    assert "waits for process 0" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt2", "t5"])
def test_from_seeds_to_a_board_entry(
    tiny: Overrides, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tiny(model, *CHAIN))
    (data,) = (tmp_path / "outputs" / "generate").rglob("result.json")
    recorded = result(folder)
    assert recorded["run"]["config"]["task"]["dataset"] == str(data.parent)
    source = recorded["audit"]["sources"]["data"]
    assert source["name"] == f"{data.parent}/chat" and source["revision"]
    assert source["substituted_for"] == "tasks by Qwen/Qwen2.5-1.5B-Instruct"
    assert "replaces tasks by Qwen/Qwen2.5-1.5B-Instruct" in (folder / "README.md").read_text()
    made = data.parent / "journal.jsonl"
    before = made.stat().st_mtime_ns
    other = run(tiny(model, *CHAIN, "seed=1"))  # another seed trains on the same data
    assert other != folder and result(other)["audit"]["sources"]["data"] == source
    assert (
        made.stat().st_mtime_ns == before and len(list((tmp_path / "outputs" / "generate").rglob("result.json"))) == 1
    )
    assert run(tiny(model, *CHAIN)) == folder
    assert "finished already" in capsys.readouterr().err
    more = run(tiny(model, *CHAIN, "generate.num_instructions=24"))  # continues in the folder, and is another run
    assert more != folder and result(more)["audit"]["sources"]["data"]["revision"] != source["revision"]
    rows = collect([tmp_path / "outputs"])
    assert len(rows) == 3 and not any(getattr(row, "problem", None) for row in rows)
    by_hand = run(
        tiny(model, *CHAIN[2:], "task=instructions", f"task.dataset={data.parent}", "generate.num_instructions=24")
    )
    assert result(by_hand)["audit"]["sources"]["data"] == result(more)["audit"]["sources"]["data"]


@pytest.mark.slow
def test_a_generator_without_useful_output_ends_the_run(tiny: Overrides, checkpoints: dict[str, Path]) -> None:
    few = ["generate.patience=1", "generate.batch=2", "generate.max_new_tokens=8", "generate.max_answer_tokens=8"]
    overrides = tiny("gpt2", *CHAIN, *few, f"generate.model={checkpoints['gpt2']}")
    with pytest.raises(UserError, match="use another generator"):
        commands.run(overrides)
