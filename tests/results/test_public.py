"""Texts that are published have no path of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import commands

from peftkit.config import UserError
from peftkit.results.public import check_public, public_values
from peftkit.results.run_result import RunResult


@pytest.mark.parametrize(
    ("private", "public"),
    [
        ("/home/ada/data/glue", "glue"),
        ("~/data/glue/", "glue"),
        ("data_root=/home/ada/data/glue", "data_root=glue"),
        ("data_root=/data", "data_root=data"),
        ("out=/tmp/o/", "out=o"),
        ("task.dataset='/home/ada/my data/train set.csv'", "task.dataset='train set.csv'"),
        ("runs=[/tmp/a/b,/tmp/a/c]", "runs=[b,c]"),
        ("model.checkpoint=google-bert/bert-base-uncased", "model.checkpoint=google-bert/bert-base-uncased"),
        ("generate.base_url=http://127.0.0.1:8000/v1", "generate.base_url=http://127.0.0.1:8000/v1"),
        ("task.dataset=data/train.csv", "task.dataset=data/train.csv"),
        ("yes/no and 1 / 2", "yes/no and 1 / 2"),
        ("end with </s>", "end with </s>"),
        (r".*\.attention\.(q|v)", r".*\.attention\.(q|v)"),
    ],
)
def test_of_a_path_the_last_name_remains_and_other_texts_stay(private: str, public: str) -> None:
    assert public_values({"a": [private, 1, None]}) == {"a": [public, 1, None]}


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
