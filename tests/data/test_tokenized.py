"""Stored tokens are those that the tokenizer makes; other texts, settings and tokenizers have entries of their own."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from helpers import commands

from peftkit.config import RunConfig
from peftkit.data import array_cache, tokenized
from peftkit.data.formats import format_of
from peftkit.models.checkpoints import locate
from peftkit.models.tokenizer import load_tokenizer

PAIRS = [("a fine film", "yes"), ("", "an empty text"), ("long " * 200, "and truncated"), ("ünïcode 名", "ok")]


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Store the tokens of any number of examples, and return a function that counts the entries."""
    monkeypatch.setenv("PEFTKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tokenized, "MIN_EXAMPLES", 1)
    return lambda: len([*array_cache.folder().rglob("*.safetensors")])


def examples_of(pairs: list[tuple[str, str]]) -> Dataset:
    features = Features({
        "id": Value("int64"), "sentence1": Value("string"), "sentence2": Value("string"), "label": ClassLabel(2),
    })  # fmt: skip
    rows = [{"id": n, "sentence1": a, "sentence2": b, "label": n % 2} for n, (a, b) in enumerate(pairs)]
    return Dataset.from_list(rows, features=features)


def format_on(checkpoint: Path, model: str) -> Any:
    (config,) = commands.choose([f"model={model}", f"model.checkpoint={checkpoint}", "source=offline", "task=mrpc"])
    assert isinstance(config, RunConfig)
    tokenizer = load_tokenizer(locate(config.model, "offline"))
    return format_of(config.task, config.model.family, ["not", "equivalent"], tokenizer)


@pytest.mark.parametrize("model", ["bert", "gpt2", "t5"])
def test_stored_tokens_equal_those_of_the_tokenizer(
    checkpoints: dict[str, Path], entries: Any, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    task_format, examples = format_on(checkpoints[model], model), examples_of(PAIRS)
    fresh = task_format.encode(examples)
    assert entries() == 1
    monkeypatch.setattr(type(task_format), "_tokens", None)  # not called any more
    stored = task_format.encode(examples)
    assert stored.inputs.features == fresh.inputs.features
    assert stored.inputs[:] == fresh.inputs[:] and stored.inputs[2] == fresh.inputs[2]
    assert stored.lengths == fresh.lengths and stored.truncated == fresh.truncated == 1
    selected = examples.select([3, 0, 1, 2]).select([1, 2, 3, 0])  # the same content, in another layout
    assert task_format.encode(selected).inputs[:] == fresh.inputs[:] and entries() == 1


def test_what_changes_the_tokens_has_an_entry_of_its_own(checkpoints: dict[str, Path], entries: Any) -> None:
    task_format, examples = format_on(checkpoints["bert"], "bert"), examples_of(PAIRS)
    task_format.encode(examples)
    other = copy.deepcopy(task_format.tokenizer)
    other.add_tokens(["film"])
    shorter = copy.deepcopy(task_format.tokenizer)
    shorter.model_max_length = 7
    for number, (changed, rows) in enumerate((
        (task_format, PAIRS[:-1]),
        (task_format, [*PAIRS[:-1], ("ünïcode 名", "ok.")]),
        (replace(task_format, task=replace(task_format.task, max_length=9)), PAIRS),
        (replace(task_format, tokenizer=other), PAIRS),
        (replace(task_format, tokenizer=shorter), PAIRS),
    )):  # fmt: skip
        changed.encode(examples_of(rows))
        assert entries() == number + 2
    relabeled = replace(task_format, task=replace(task_format.task, metrics=["accuracy"], max_train_samples=3))
    relabeled.encode(examples_of(PAIRS))
    assert entries() == number + 2  # the same tokens


def test_a_damaged_entry_is_made_again(checkpoints: dict[str, Path], entries: Any) -> None:
    task_format, examples = format_on(checkpoints["bert"], "bert"), examples_of(PAIRS)
    fresh = task_format.encode(examples)
    (file,) = array_cache.folder().rglob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-8] + b"\1" * 8)
    assert task_format.encode(examples).inputs[:] == fresh.inputs[:]
    file.write_bytes(content[:50])
    assert task_format.encode(examples).inputs[:] == fresh.inputs[:] and entries() == 1
    assert len(file.read_bytes()) == len(content)
