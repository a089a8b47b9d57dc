"""The config in a run folder by somebody else passes the rules of recipes before anything of it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import choose

from peftkit.config import UserError
from peftkit.config.checks.untrusted import adapter_errors
from peftkit.config.own_code import instantiate, open_code
from peftkit.jobs.leaderboard import selection_score
from peftkit.results.run_folder import SCHEMA
from peftkit.results.run_result import RunResult

RECORD = {
    "schema": SCHEMA,
    "audit": {"sources": {"model": {"name": "tiny"}, "data": {"name": "films"}}},
    "meta": {"seed": 0, "device": "cpu", "status": "finished"},
}


def stored(folder: Path, key: str, value: Any) -> RunResult:
    """Write a run folder with one changed setting."""
    config = json.loads(json.dumps(choose([])[0].to_dict()))
    *parents, name = key.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[name] = value
    (folder / "result.json").write_text(json.dumps({**RECORD, "run": {"config": config}}))
    return RunResult(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("method.config._target_", "os.system", "method.config._target_=os.system is refused"),
        ("method.config._target_", "peftkit.generation.client.Journal", "is not the config class of a method of peft"),
        ("method.config.eva_config", {"_target_": "subprocess.Popen"}, "method.config.eva_config._target_="),
        ("collator", {"_target_": "os.system"}, "collator._target_=os.system is refused"),
        ("train.push_to_hub", True, "train.push_to_hub is refused"),
        ("train.output_dir", "/tmp/elsewhere", "train.output_dir is refused"),
        ("model.trust_remote_code", True, "model.trust_remote_code is refused"),
        ("method.config.megatron_config", {"a": 1}, "method.config.megatron_config is refused"),
        ("allow_code", ["os"], "allow_code is refused"),
        ("task.name", "../../elsewhere", "task.name=../../elsewhere is no name"),
    ],
)
def test_a_stored_config_is_refused(key: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"result\.json: .*") as refused:
        _ = stored(tmp_path, key, value).config
    assert message in str(refused.value)


def test_a_stored_config_of_peftkit_is_read(tmp_path: Path) -> None:
    assert stored(tmp_path, "train.push_to_hub", False).config.train["push_to_hub"] is False


@pytest.mark.parametrize(
    "settings", [{"megatron_config": {"a": 1}}, {"a": [{"tokenizer_kwargs": {"trust_remote_code": True}}]}]
)
def test_an_adapter_config_is_refused(settings: dict[str, Any]) -> None:
    assert list(adapter_errors(settings))
    assert not list(adapter_errors({"megatron_config": None, "megatron_core": "megatron.core", "r": 8}))


def test_only_opened_packages_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownpackage.py").write_text("class Mine:\n    def __init__(self, first, size=1): self.size = size\n")
    monkeypatch.chdir(tmp_path)
    settings = {"_target_": "ownpackage.Mine", "size": 3}
    with pytest.raises(UserError, match=r"ownpackage.Mine is refused; .* type allow_code=\[ownpackage\]"):
        instantiate(settings, "first")
    with open_code(["ownpackage"]):
        assert instantiate(settings, "first").size == 3
        with pytest.raises(UserError, match=r"ownpackage\.Mine: "):
            instantiate({**settings, "sise": 3}, "first")
    with pytest.raises(UserError, match="is refused"):
        instantiate(settings, "first")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({}, float("-inf")),
        ({"accuracy": {"value": 0.5, "higher_is_better": True}}, 0.5),
        ({"mean_squared_error": {"value": 2.0, "higher_is_better": False}}, -2.0),
    ],
)
def test_a_sweeper_gets_a_score_to_maximize(scores: dict[str, Any], expected: float, tmp_path: Path) -> None:
    config = choose([])[0].to_dict()
    (tmp_path / "result.json").write_text(json.dumps({**RECORD, "run": {"config": config}, "scores": scores}))
    assert selection_score(tmp_path) == expected
    assert selection_score(None) == selection_score(tmp_path / "nowhere") == float("-inf")
