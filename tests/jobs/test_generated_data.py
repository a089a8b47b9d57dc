"""task.dataset=self_instruct: tasks are grown once, then trained on by every run that asks for the same."""

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

Words = Callable[..., list[str]]
CHAIN = [
    "recipe=sft_self_instruct",
    "generate.num_instructions=12",
    "method=lora",
    "task.max_length=96",
    "task.max_target_length=8",
]


def run(words: list[str]) -> Path:
    assert check(words) == []
    folder = commands.run(words, "sft_self_instruct")
    assert folder is not None
    return folder


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["generate.algorithm=evol_instruct"], "set generate.algorithm=self_instruct"),
        (["generate.generator=endpoint"], "set generate.base_url=http://127.0.0.1:8000/v1"),
        (["generate.model=./nowhere"], "generate.model=./nowhere: no such folder"),
        (["generate.decontaminate=[mrcp]"], "did you mean mrpc?"),
        (["model=bert"], "model=bert (encoder) has no head"),
    ],
)
def test_what_the_chain_lacks_is_said_before_anything_is_asked(words: list[str], answer: str) -> None:
    assert any(answer in sentence for sentence in check(["recipe=sft_self_instruct", *words]))


def test_an_evaluation_grows_nothing() -> None:
    words = ["job=evaluate", "run=x", "task=instructions", "task.dataset=self_instruct"]
    assert any("set task.dataset=outputs/generate/" in sentence for sentence in check(words))


def test_a_plan_asks_for_no_task(tiny: Words) -> None:
    words = tiny("gpt2", *CHAIN, "job=plan")
    with pytest.raises(UserError, match="say job=generate seed=0 first"):
        commands.run(words)


def test_a_lower_target_does_not_train_on_what_a_higher_one_left(tiny: Words) -> None:
    words = tiny("gpt2", *CHAIN, "generate.batch=4", "job=plan")
    with pytest.raises(UserError) as missing:
        commands.run(words)
    folder = Path(str(missing.value).partition(" has not all")[0])
    config = {"generate": {"num_instructions": 600}}
    run_folder.write_result(
        folder, {"run": {"config": config}, "counts": {"kept": 602}, "meta": {"status": "finished"}}
    )
    with pytest.raises(
        UserError,
        match=r"holds 602 tasks, generate.num_instructions=12 .* say generate.num_instructions=600, or out=FOL",
    ):
        commands.run(words)


def test_who_waits_for_tasks_ends_with_who_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config: Any = OmegaConf.to_container(compose_config(CHAIN), resolve=True)
    settings = RunConfig.from_config(config).generate
    assert settings is not None
    run_folder.write_result(tmp_path, {"meta": {"status": "failed", "reason": "the server is gone"}})
    later = time.time() + 60  # an older failure is none of this run
    os.utime(tmp_path / "result.json", (later, later))
    with pytest.raises(UserError, match="was not filled: the server is gone"):
        _wait(tmp_path, settings)
    assert "waits for process 0" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt2", "t5"])
def test_from_seeds_to_a_row(tiny: Words, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tiny(model, *CHAIN))
    (data,) = (tmp_path / "outputs" / "generate").rglob("result.json")
    told = result(folder)
    assert told["run"]["config"]["task"]["dataset"] == str(data.parent)
    source = told["audit"]["sources"]["data"]
    assert source["name"] == f"{data.parent}/chat" and source["revision"]
    assert source["substituted_for"] == "tasks by Qwen/Qwen2.5-1.5B-Instruct"
    assert "replaces tasks by Qwen/Qwen2.5-1.5B-Instruct" in (folder / "README.md").read_text()
    made = data.parent / "journal.jsonl"
    before = made.stat().st_mtime_ns
    other = run(tiny(model, *CHAIN, "seed=1"))  # another seed trains on the same
    assert other != folder and result(other)["audit"]["sources"]["data"] == source
    assert (
        made.stat().st_mtime_ns == before and len(list((tmp_path / "outputs" / "generate").rglob("result.json"))) == 1
    )
    assert run(tiny(model, *CHAIN)) == folder
    assert "finished already" in capsys.readouterr().err
    more = run(tiny(model, *CHAIN, "generate.num_instructions=24"))  # goes on in the folder, and is another run
    assert more != folder and result(more)["audit"]["sources"]["data"]["revision"] != source["revision"]
    rows = collect([tmp_path / "outputs"])
    assert len(rows) == 3 and not any(getattr(row, "problem", None) for row in rows)
    by_hand = run(
        tiny(model, *CHAIN[2:], "task=instructions", f"task.dataset={data.parent}", "generate.num_instructions=24")
    )
    assert result(by_hand)["audit"]["sources"]["data"] == result(more)["audit"]["sources"]["data"]


@pytest.mark.slow
def test_a_writer_that_writes_nothing_of_use_ends_the_run(tiny: Words, checkpoints: dict[str, Path]) -> None:
    few = ["generate.patience=1", "generate.batch=2", "generate.max_new_tokens=8", "generate.max_answer_tokens=8"]
    words = tiny("gpt2", *CHAIN, *few, f"generate.model={checkpoints['gpt2']}")
    with pytest.raises(UserError, match="name a writer that can"):
        commands.run(words)
