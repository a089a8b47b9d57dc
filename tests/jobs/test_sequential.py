"""Runs that the verdict does not need are skipped, also after a restart, and trained by a command that wants all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.fork_server import ForkServer

import peftkit
from peftkit.config import UserError

Overrides = Callable[..., list[str]]


def statuses(out: Path) -> dict[tuple[str, int], str]:
    results = [json.loads(file.read_text()) for file in out.rglob("result.json")]
    return {(each["run"]["config"]["method"]["name"], each["meta"]["seed"]): each["meta"]["status"] for each in results}


def test_seeds_of_a_settled_entry_are_skipped_until_all_are_wanted(
    tiny: Overrides, fork_server: ForkServer, tmp_path: Path
) -> None:
    command = ["-m", *tiny("bert", "task=mrpc"), "method=linear_probe,ia3", f"out={tmp_path}/out"]
    assert fork_server.run([*command, "seed=0,1,2"], tmp_path).code == 0
    for file in (tmp_path / "out").rglob("result.json"):  # scores that the tiny models do not have
        result = json.loads(file.read_text())
        low = result["run"]["config"]["method"]["name"] == "ia3"
        for score in result["scores"].values():
            score["value"] = (0.2 if low else 0.9) + result["meta"]["seed"] / 1000
        file.write_text(json.dumps(result))
    for workers in ("workers=2", "workers=null"):  # the second time finds all decided
        ended = fork_server.run([*command, "seed=range(5)", "sequential_seeds=true", workers], tmp_path)
        assert ended.code == 0, ended.stderr
        assert "stopped after 3 of 5 seeds: significantly below the best" in ended.stdout
        found = statuses(tmp_path / "out")
        assert {run for run, status in found.items() if status == "skipped"} == {("ia3", 3), ("ia3", 4)}
        assert len(found) == 10
    assert fork_server.run([*command, "seed=3"], tmp_path).code == 0
    assert statuses(tmp_path / "out")["ia3", 3] == "finished"


def test_the_python_api_refuses_seeds_without_a_look(tmp_path: Path) -> None:
    chosen = {"source": "offline", "out": str(tmp_path), "sequential_seeds": True}
    with pytest.raises(UserError, match="decides after 3 seeds, of 2"):
        peftkit.compare(methods=["lora", "ia3"], tasks=["mrpc"], seeds=2, model="minilm", **chosen)
    with pytest.raises(UserError, match="needs the seeds of a sweep"):
        peftkit.finetune(model="minilm", task="mrpc", **chosen)
