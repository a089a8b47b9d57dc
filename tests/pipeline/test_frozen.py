"""States of a frozen base are computed once, before training, and later runs read them from the cache folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import commands
from helpers.interruption import broken_off

from peftkit.data import array_cache
from peftkit.jobs.finetune import finetune
from peftkit.models.frozen import CACHE, FrozenStates
from peftkit.models.state_cache import LIMIT, OBJECT, StateCache, pack_states, unpack_states
from peftkit.pipeline import frozen
from peftkit.results.run_result import RunResult


@pytest.fixture
def run(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[RunResult, list[int]]]:
    """Return a function that trains as a new process does, and returns the result and the sizes of `compute`."""
    monkeypatch.setenv("PEFTKIT_HOME", str(tmp_path / "home"))
    sizes: list[int] = []
    compute = FrozenStates.compute

    def counted(states: FrozenStates, texts: Any, together: bool = False) -> Any:
        if states.cache is CACHE:  # and not that of the check of what is kept
            sizes.append(len(texts))
        return compute(states, texts, together)

    monkeypatch.setattr(FrozenStates, "compute", counted)

    def train(*words: str, limit: int = LIMIT, force: bool = True) -> tuple[RunResult, list[int]]:
        monkeypatch.setattr(CACHE, "limit", limit)
        CACHE.entries.clear()
        CACHE.bytes = 0
        sizes.clear()
        (config,) = commands.choose(tiny("bert", f"force={force}", "train.num_train_epochs=2", *words))
        return RunResult(finetune(config)), list(sizes)

    return train


@pytest.fixture
def own_data(tmp_path: Path) -> dict[str, tuple[str, ...]]:
    """Return the words of tasks on files, whose models keep the states of all tokens, or look up two texts at once."""
    words = [f"word{n % 7} film great bad".split()[: 1 + n % 4] for n in range(40)]
    tagged = [{"tokens": each, "tags": ["O" if word == "film" else "B-X" for word in each]} for each in words]
    pairs = [{"query": " ".join(each), "document": f"{' '.join(each)} text {n}"} for n, each in enumerate(words)]
    for name, rows in (("tags", tagged), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "tags": ("task=token_classification", f"task.dataset={tmp_path}/tags.jsonl", "method=linear_probe"),
        "pairs": ("task=retrieval", f"task.dataset={tmp_path}/pairs.jsonl", "method=linear_probe_mix"),
        "bf16": ("task=mrpc", "method=linear_probe", "train.bf16=true"),
        "mix": ("task=mrpc", "method=linear_probe_mix", "early_stopping.patience=1"),
    }


def outcome(result: RunResult) -> tuple[Any, Any]:
    rows = [np.concatenate([np.ravel(each) for each in row]) for row in result.predictions()["scores"]]
    return result.record["scores"], np.concatenate(rows)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("tags", "bf16")]


@pytest.mark.parametrize("name", ["pairs", "mix", *SLOW])
def test_a_later_run_reads_the_states_of_all_examples(run: Any, own_data: Any, name: str) -> None:
    words = own_data[name]
    first, computed = run(*words)
    assert len(computed) == 1  # before training; nothing after it
    expected = outcome(first)
    again, computed = run(*words)
    assert computed == []
    found = outcome(again)
    assert found[0] == expected[0] and np.array_equal(found[1], expected[1])
    costs = [result.record["costs"]["feature_seconds"] for result in (first, again)]
    assert costs[0] > 0 and costs[1] == pytest.approx(costs[0])  # of the run that computed them
    assert all(each.record["costs"]["train_seconds"] > costs[0] for each in (first, again))


def test_states_that_do_not_fit_into_memory_are_mapped_from_their_files(run: Any, own_data: Any) -> None:
    words = own_data["tags"]
    expected = outcome(run(*words)[0])
    for file in array_cache.folder().rglob("*.safetensors"):
        file.unlink()
    result, computed = run(*words, limit=60 * OBJECT)
    assert len(computed) == 1 and CACHE.bytes <= 60 * OBJECT
    assert np.array_equal(outcome(result)[1], expected[1])


def test_a_resumed_run_reads_its_states_and_continues_as_if_it_was_not_interrupted(run: Any) -> None:
    words = ("task=mrpc", "method=linear_probe")
    expected = outcome(run(*words)[0])
    with broken_off(step=4):
        run(*words)
    result, computed = run(*words, force=False)
    assert computed == [] and result.record["meta"]["status"] == "finished"
    assert np.array_equal(outcome(result)[1], expected[1])


def test_a_damaged_file_is_computed_again(run: Any) -> None:
    words = ("task=mrpc", "method=linear_probe")
    expected, (size,) = run(*words)
    file = next(array_cache.folder().rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-8] + b"\1" * 8)
    result, (again,) = run(*words)
    assert 0 < again < size
    assert np.array_equal(outcome(result)[1], outcome(expected)[1])


def test_parts_of_a_split_are_sorted_by_length_and_have_about_as_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "PART", 50)
    lengths = np.random.default_rng(0).integers(1, 12, 100)
    parts = frozen._parts(lengths)
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    assert np.all(np.diff(lengths[np.concatenate(parts)]) >= 0)
    assert all(lengths[part].sum() <= 61 for part in parts) and len(parts) == math.ceil(lengths.sum() / 50)
    assert frozen._parts([]) == []


@pytest.mark.parametrize("shapes", [[(4,), (4,)], [(2, 4), (3, 4)]])
def test_packed_states_are_those_of_each_example(shapes: list[tuple[int, ...]]) -> None:
    states = [(torch.randn(shape), torch.randn(shape)) for shape in shapes]
    unpacked, seconds = unpack_states(pack_states(states, [0.5, 0.25]))
    assert seconds == [0.5, 0.25]
    for expected, found in zip(states, unpacked, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_mapped_states_take_no_values_of_the_limit() -> None:
    cache = StateCache(limit=2 * OBJECT)
    assert not cache.add(b"a", (torch.ones(8),) * 2)
    assert cache.add(b"a", (torch.ones(8),) * 2, 0.5, is_mapped=True)
    assert cache.bytes == 2 * OBJECT and cache.seconds(b"a") == 0.5 and cache.seconds(b"b") == 0
