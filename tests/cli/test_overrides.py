"""Texts and paths of the command line arrive as they were typed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from peftkit.cli.compose import Composer, build_run, open_composer, plan_sweep, without_hydra
from peftkit.cli.overrides import parse, read_command
from peftkit.cli.validate import command_errors
from peftkit.cli.values import compose_values
from peftkit.config import RunConfig
from peftkit.config.quoting import quote

TEXTS = [
    'cost is ${x}, C:\\new "a"', "", " ", " spaces ", "null", "true", "5", "1e3", "[1, 2]", "{a: 1}", "a,b", "a=b", "it's", "'quoted'",
    '"quoted"', "\\", "a\\", "a\\'", "\\${x}", "\\\\${x}", "${", "$", "a\nb\\\n", "\ttab", "日本語 " * 100, "~", "~/x", "/tmp", "/etc/passwd",
    ".", "..", "C:\\new\\file", "a/b", "see my notes.csv", "x" * 300, "x" * 300 + ".csv y.json", "choice(a,b)", "glob(*)", "a || b", "#x",
]  # fmt: skip


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with open_composer(None) as composer:
        yield composer


def compose(composer: Composer, *arguments: str) -> tuple[RunConfig, list[str]]:
    """Return the config of the only run of a command, and its errors."""
    overrides = read_command(arguments).overrides
    (run,) = plan_sweep(overrides, composer).runs
    return build_run(without_hydra(composer(run)), None, run), command_errors(overrides, composer, None, False)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_the_input_as_typed(composer: Composer, text: str) -> None:
    config, errors = compose(composer, "job=predict", "run=none", f"input={text}")
    assert config.input == text
    assert len(errors) == 1 and errors[0].startswith("run=none contains no result.json")  # the input is right


def test_any_text_survives_quoting(composer: Composer) -> None:
    draw = random.Random(0)
    texts = ["".join(draw.choices("\\'\"${}x[],= ~:\n", k=draw.randrange(1, 9))) for _ in range(1000)]
    for text in texts:
        assert OmegaConf.create({"input": parse(f"input={quote(text)}").value()}).input == text
    for text in texts[:10]:
        assert composer([f"input={quote(text)}"]).input == text
        assert compose_values(composer, {"job": "embed", "input": text}).input == text


@pytest.mark.parametrize(
    ("name", "message"), [("none.csv", "no such file"), ("notes.txt", "expected a file that ends in")]
)
def test_the_name_of_a_file_is_no_text(composer: Composer, name: str, message: str) -> None:
    assert f"input={name}: {message}" in compose(composer, "job=predict", "run=none", f"input={name}")[1][1]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("out=données (1)", "données (1)"), ("out=日本語", "日本語"), ("out=a&b=c", "a&b=c"), ("out='a, b'", "a, b"), ("out=a b", "a b"),
        ("out=x:y", "x:y"), ("out=100%", "100%"), ("out=a~1", "a~1"),
    ],
)  # fmt: skip
def test_names_in_any_script_need_no_quotes(composer: Composer, typed: str, read: str) -> None:
    assert str(compose(composer, typed)[0].out) == read


def test_lists_of_names_in_any_script_need_no_quotes(composer: Composer) -> None:
    config, _ = compose(
        composer, "task=classification", "task.text=[текст, 标题 (a)]", "task.label=метка", "task.labels=[да,нет]"
    )
    assert (
        config.task.text == ["текст", "标题 (a)"]
        and config.task.label == "метка"
        and config.task.labels == ["да", "нет"]
    )
    overrides = read_command(["-m", "out=é,b", "seed=range(0,2)"]).overrides
    assert len(plan_sweep(overrides, composer).runs) == 4


def test_the_home_folder_is_expanded(composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "my, home"
    home.mkdir()
    (home / "films.csv").write_text("text\na film\n")
    monkeypatch.setenv("HOME", str(home))
    command = ["out=~/x", "data_root=~", "results=[~/a,b,~/c d]", "task.dataset=~/my data/x.csv", "input=~/films.csv"]
    config, _ = compose(composer, *command)
    assert [config.out, config.data_root, config.task.dataset] == [f"{home}/x", str(home), f"{home}/my data/x.csv"]
    assert config.results == [f"{home}/a", "b", f"{home}/c d"] and config.input == f"{home}/films.csv"
    assert compose_values(composer, {"out": "~/x", "seed": 1}).out == f"{home}/x"
    overrides = read_command(["-m", "out=~/x,~/y"]).overrides
    outs = [build_run(without_hydra(composer(run)), None, run).out for run in plan_sweep(overrides, composer).runs]
    assert outs == [f"{home}/x", f"{home}/y"]
