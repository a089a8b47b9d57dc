"""Texts that are published have no path of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import commands

from peftkit.config import UserError
from peftkit.results.public import check_public, public_result
from peftkit.results.run_result import RunResult


@pytest.mark.parametrize(
    ("private", "public"),
    [
        ("data_root=/home/ada/data/glue", "data_root=glue"),
        ("data_root=~/data/glue/", "data_root=glue"),
        ("data_root=/data", "data_root=data"),
        ("data_root=/", "data_root=/"),
        ("out=/tmp/o/", "out=o"),
        ("model.checkpoint=/home/ada/my data/m", "model.checkpoint=m"),
        ("task.dataset='/home/ada/my data/train set.csv'", "task.dataset='train set.csv'"),
        ("runs=[/tmp/a/b, '/tmp/a b/c d']", "runs=[b, 'c d']"),
        ("++train.deepspeed=/home/ada/zero.json", "++train.deepspeed=zero.json"),
        ("model.checkpoint=google-bert/bert-base-uncased", "model.checkpoint=google-bert/bert-base-uncased"),
        ("generate.base_url=http://127.0.0.1:8000/v1", "generate.base_url=http://127.0.0.1:8000/v1"),
        ("task.dataset=data/train.csv", "task.dataset=data/train.csv"),
        ("task.template='answer with /yes/no: {text}'", "task.template='answer with /yes/no: {text}'"),
        ("task.labels=[/r/python,/r/rust]", "task.labels=[/r/python,/r/rust]"),
        (r"method.config.target_modules='.*\.(q|v)'", r"method.config.target_modules='.*\.(q|v)'"),
        ("recipe", "recipe"),
    ],
)
def test_of_a_path_in_an_override_the_last_name_remains_and_other_texts_stay(private: str, public: str) -> None:
    assert public_result({"run": {"overrides": [private, "seed=1"]}}) == {"run": {"overrides": [public, "seed=1"]}}


def test_of_a_path_in_a_result_the_last_name_remains_and_other_texts_stay() -> None:
    task = {"template": "answer with /yes/no: {text}", "labels": ["/r/python"], "verbalizer": {"dataset": "/r/rust"}}
    private = {
        "run": {"config": {"seed": 1, "out": "/tmp/o", "runs": ["/a/b", "c"], "tasks": [{"dataset": "/a/b.csv"}]}},
        "audit": {"sources": {"model": {"name": "/home/ada/my data/m"}}, "label_names": ["/r/python"]},
    }
    public = {
        "run": {"config": {"seed": 1, "out": "o", "runs": ["b", "c"], "tasks": [{"dataset": "b.csv"}]}},
        "audit": {"sources": {"model": {"name": "m"}}, "label_names": ["/r/python"]},
    }
    for result, dataset in ((private, "/home/ada/x"), (public, "x")):
        result["run"]["config"]["task"] = {**task, "dataset": dataset}
    assert public_result(private) == public


def test_a_path_or_a_secret_that_is_left_is_refused(
    tiny: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = commands.finetune(*tiny("bert", "task=mrpc", "method=bitfit"))
    run = RunResult.finished(folder)
    check_public("README.md", "of the Hub, /usr/share, glue/mrpc", run)
    for private in (Path.home() / "x", Path.cwd(), folder, tmp_path / "outputs"):
        with pytest.raises(UserError, match=r"README.md would publish a path of this machine"):
            check_public("README.md", f"from {private}.", run)
    monkeypatch.chdir("/")
    check_public("README.md", "https://example.com of /usr", run)
    monkeypatch.setenv("MY_TOKEN", "abcdefgh-secret")
    with pytest.raises(UserError, match="would publish a secret") as raised:
        check_public("config.json", '{"a": "abcdefgh-secret"}', run)
    assert "abcdefgh" not in str(raised.value)
