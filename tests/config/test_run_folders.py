"""A damaged run folder is refused by the name of its file, before anything loads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import choose

from peftkit.cli.compose import open_composer
from peftkit.cli.overrides import normalize_override
from peftkit.cli.validate import command_errors

Errors = Callable[[list[str]], list[str]]
OWN = ["task=classification", "task.text=[a]", "task.label=b"]
TENSOR = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


def safetensors(header: Any = TENSOR, data: bytes = b"0000") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


COMMANDS = (
    ["job=predict", "run=run", "input=a text"],
    ["job=evaluate", "run=run"],
    ["job=merge", "run=run"],
    ["job=forgetting", "run=run"],
    ["job=embed", "run=run", "input=a text", "output=x.parquet"],
    ["task=sst2", "model=minilm", "distill.teacher=run"],
)


@pytest.fixture(scope="module")
def record() -> str:
    (config,) = choose(["task=sst2", "model=minilm", "method=lora"])
    source = {"kind": "offline", "name": "minilm", "revision": "1", "substituted_for": None}
    record = {
        "schema": 2,
        "run": {"config": config.to_dict(), "overrides": ["task=sst2"]},
        "scores": {"accuracy": {"value": 0.5, "higher_is_better": True}},
        "audit": {"sources": {"model": source, "data": source}, "label_names": ["no", "yes"]},
        "meta": {"seed": 0, "device": "cpu", "status": "finished", "reason": None},
    }
    return json.dumps(record)


@pytest.fixture
def folder(record: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder "run" with every file that jobs read, without real weights, in the working folder."""
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    (run / "result.json").write_text(record)
    (run / "adapter" / "adapter_config.json").write_text("{}")
    (run / "adapter" / "adapter_model.safetensors").write_bytes(safetensors())
    monkeypatch.chdir(tmp_path)
    return run


@pytest.fixture(scope="module")
def errors(record: str) -> Iterator[Errors]:
    """Return a function that checks a command, each composed once for all run folders (after that of `record`)."""
    with open_composer(None) as composer:
        yield lambda command: command_errors([*map(normalize_override, command)], composer, None, True)


def test_a_whole_run_folder_is_accepted(folder: Path, errors: Errors) -> None:
    assert [errors(command) for command in COMMANDS] == [[]] * 6


@pytest.mark.parametrize("name", ["adapter/merges.txt", "adapter/adapter_model.safetensors", "rows.safetensors"])
def test_a_pipe_is_refused_and_not_read(folder: Path, errors: Errors, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    for command in COMMANDS:
        assert any(f"run/{name} cannot be read: not a regular file; " in message for message in errors(command))


DAMAGE: dict[str, tuple[str, bytes | None, str]] = {
    "result truncated": ("result.json", b'{"schema": 2, "run": {', "result.json cannot be read: "),
    "result a list": ("result.json", b"[]", "result.json cannot be read as a result: "),
    "result without status": ("result.json", b'{"meta": {}}', "result.json cannot be read as a result: "),
    "result not UTF-8": ("result.json", b"\xff\xfe\x00", "result.json cannot be read: "),
    "result nested": ("result.json", b"[" * 100_000, "result.json cannot be read: "),
    "adapter config missing": ("adapter/adapter_config.json", None, "adapter/adapter_config.json is missing; "),
    "adapter config truncated": ("adapter/adapter_config.json", b'{"r": ', "adapter_config.json cannot be read: "),
    "adapter config a text": ("adapter/adapter_config.json", b'"r"', "adapter_config.json cannot be read: expected"),
    "weights missing": (
        "adapter/adapter_model.safetensors",
        None,
        "adapter contains no weights in .safetensors files; ",
    ),
    "weights empty": ("adapter/adapter_model.safetensors", b"", "adapter_model.safetensors cannot be read: truncated"),
    "weights truncated": ("adapter/adapter_model.safetensors", safetensors()[:-1], "safetensors cannot be read: trunc"),
    "weights text": (
        "adapter/adapter_model.safetensors",
        b"version https://git-lfs.github.com",
        "cannot be read: trun",
    ),
    "weights a zip": ("adapter/adapter_model.safetensors", safetensors([1]), "cannot be read: not a file of safetens"),
    "tokenizer truncated": ("adapter/tokenizer.json", b"{", "adapter/tokenizer.json cannot be read: "),
}


@pytest.mark.parametrize(("name", "content", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_named_by_every_job(
    folder: Path, errors: Errors, name: str, content: bytes | None, message: str
) -> None:
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    for command in COMMANDS:
        found = errors(command)
        assert any(message in error for error in found), (command, found)


CHANGED: dict[str, tuple[str, Any, str]] = {
    "status": ("meta/status", "failed", "is failed; finish it first"),
    "model": ("run/config/model", None, "run.config.model: expected an object"),
    "value": ("run/config/task/max_length", "long", "task.max_length=long: expected an int"),
    "key": ("run/config/search", {"factors": [1]}, "another version of peftkit"),
    "scores": ("scores", [], "scores: expected an object"),
    "source": ("audit/sources/model", "bert", "audit.sources.model: expected an object"),
    "labels": ("audit/label_names", [1], "audit.label_names[0]: expected a text"),
}


@pytest.mark.parametrize(("key", "value", "message"), CHANGED.values(), ids=CHANGED)
def test_a_wrong_field_of_a_result_is_named(folder: Path, errors: Errors, key: str, value: Any, message: str) -> None:
    record = json.loads((folder / "result.json").read_text())
    *above, last = key.split("/")
    place = record
    for part in above:
        place = place[part]
    place[last] = value
    (folder / "result.json").write_text(json.dumps(record))
    (error,) = errors(COMMANDS[0])
    assert message in error


def test_a_pipe_or_a_device_is_not_read(folder: Path, errors: Errors, tmp_path: Path) -> None:
    (folder / "result.json").unlink()
    os.mkfifo(folder / "result.json")
    (error,) = errors(COMMANDS[0])
    assert "contains no result.json" in error
    os.mkfifo(tmp_path / "train.jsonl")
    (error,) = errors([*OWN, f"task.dataset={tmp_path}/train.jsonl"])
    assert "is a pipe" in error


LONG = "x" * 300
PLACES = {
    f"out={LONG}": "a name has more than 255 bytes",
    f"out={'x/' * 2000}": "a name has more than 255 bytes",
    "out=/dev/null/x": "/dev/null is not a folder",
    "out=pyproject.toml": "pyproject.toml is not a folder",
    "job=predict run=x input='a text' output=/dev/null/x.csv": "/dev/null is not a folder",
    f"model.checkpoint=./{LONG}": "no such folder",
    f"{' '.join(OWN)} task.dataset={LONG}.csv": "no such file",
    f"job=leaderboard results=[{LONG}]": "contains no result.json",
    f"data_root={LONG}": "no such folder",
    f"vocab={LONG}": "contains no vocabulary.json",
    f"distill.teacher={LONG}": "contains no result.json",
    f"job=judge runs=[{LONG},y]": "contains no result.json",
    f"job=extend extend.terms={LONG}.txt": "no such file",
    f"recipe=self_instruct generate.seeds={LONG}": "no such file",
    "job=extend extend.terms=/dev/zero": "is a pipe, a device",
}


@pytest.mark.parametrize(("command", "message"), PLACES.items(), ids=lambda text: text[:40])
def test_a_path_that_cannot_be_used_is_refused(errors: Errors, command: str, message: str) -> None:
    found = errors(command.replace("'a text'", "text").split())
    assert any(message in error for error in found), found
