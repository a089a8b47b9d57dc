"""Splits that peftkit makes keep the shares of the labels, and a rare label never leaves the training examples."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from helpers.commands import compose_config
from omegaconf import OmegaConf

from peftkit.config import RunConfig, TaskConfig
from peftkit.config.console import ASSUMPTIONS, WAITING
from peftkit.data.datasets import TaskDataset, example_reader, load_task_dataset
from peftkit.data.stratified import stratified_split
from peftkit.results.run_folder import SCHEMA
from peftkit.results.run_result import RunResult


@pytest.mark.parametrize("size", [0.1, 0.25, 40])
def test_common_labels_keep_their_shares(size: float) -> None:
    labels = ["a"] * 180 + ["b"] * 80 + ["c"] * 40
    rest, held_out = stratified_split(labels, size, seed=0)
    assert sorted(rest + held_out) == list(range(300))
    number = round(size * 300) if size < 1 else size
    assert len(held_out) == number
    counts = Counter(labels[index] for index in held_out)
    assert all(abs(counts[name] - number * labels.count(name) / 300) < 1 for name in "abc")


@pytest.mark.parametrize(
    "labels",
    [
        ["a"] * 50 + ["b"],
        ["a"] * 50 + ["b", "c", "c", "d", "d", "d"],
        ["a"] * 300 + [f"rare {number // 2}" for number in range(200)],
        [f"class {number % 100}" for number in range(300)],
    ],
)
def test_every_label_stays_in_train(labels: list[str]) -> None:
    for seed in range(20):
        rest, held_out = stratified_split(labels, 0.1, seed)
        assert {labels[index] for index in rest} == {*labels}
        assert len(held_out) == -(-len(labels) // 10)


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "a"], ["a", "b", "c"], ["a", "a", "b"]])
def test_the_smallest_files_are_split(labels: list[str]) -> None:
    rest, held_out = stratified_split(labels, 0.1, seed=0)
    assert sorted(rest + held_out) == list(range(len(labels))) and len(held_out) == 1


def tickets(tmp_path: Path, *overrides: str) -> tuple[TaskConfig, TaskDataset]:
    file = tmp_path / "tickets.csv"
    lines = [f"ticket {number},{'abbcccdddd'[number % 10]}" for number in range(100)] + ["the only one,e"]
    file.write_text("text,label\n" + "\n".join(lines) + "\n")
    words = ["task=classification", f"task.dataset={file}", "task.text=[text]", *overrides]
    task = RunConfig.from_config(compose_config(words)).task  # type: ignore[arg-type]
    return task, load_task_dataset(task, None, "offline")


def test_a_file_and_a_holdout_are_stratified(tmp_path: Path) -> None:
    task, data = tickets(tmp_path)
    assert data.is_split and example_reader(task).is_stratified
    train, validation = (Counter(data.splits[name]["label"]) for name in ("train", "validation"))
    assert train[4] == 1 and validation[4] == 0
    assert [validation[label] for label in range(4)] in ([1, 2, 3, 5], [2, 2, 3, 4], [1, 3, 3, 4], [1, 2, 4, 4])
    rest, held_out = example_reader(task).split(data.splits["train"], 0.2, "early stopping")
    assert "18 of 90 examples are held out for early stopping, stratified by label" in {*WAITING, *ASSUMPTIONS}
    counts = Counter(held_out["label"])
    assert len(rest) + len(held_out) == 90 and 4 in rest["label"]
    assert all(abs(counts[label] - 0.2 * train[label]) < 1 for label in range(4))


def test_a_random_split_is_kept_for_those_who_type_it(tmp_path: Path) -> None:
    task, data = tickets(tmp_path, "task.stratify=false")
    assert not example_reader(task).is_stratified
    assert data.splits["train"]["id"] != tickets(tmp_path)[1].splits["train"]["id"]


def test_the_validation_examples_of_an_earlier_run_are_found_again(tmp_path: Path) -> None:
    """A run that does not record `stratify` split at random: other examples may be those that it trained on."""
    config = OmegaConf.to_container(compose_config(["task=mrpc"]), resolve=True)
    assert isinstance(config, dict) and config["task"].pop("stratify") is None
    record = {"schema": SCHEMA, "meta": {"status": "finished"}, "run": {"config": config}}
    (tmp_path / "result.json").write_text(json.dumps(record))
    assert RunResult(tmp_path).config.task.stratify is False
