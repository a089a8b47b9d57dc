"""The shipped seeds pass the filters; files of users are read, or refused with a message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftkit.config import UserError
from peftkit.generation.filters import check_instances, check_instruction
from peftkit.generation.instruction_tasks import SEEDS, read_tasks
from peftkit.generation.novelty import NoveltyIndex


def test_the_shipped_seeds_pass_the_filters() -> None:
    tasks = read_tasks(SEEDS)
    assert len(tasks) >= 60 and 0.25 < sum(task.is_classification for task in tasks) / len(tasks) < 0.45
    index = NoveltyIndex(0.7)
    for task in tasks:
        assert check_instruction(task.instruction, [3, 150], ["image", "map", "url"]) is None
        assert index.nearest(task.instruction) is None
        assert not any(check_instances(task.instances, task.instruction))
        index.add(task.instruction)


def test_a_file_without_names_and_types_is_read(tmp_path: Path) -> None:
    file = tmp_path / "seeds.jsonl"
    row = {"id": "a", "motivation_app": "x", "instruction": " Add. ", "instances": [{"input": None, "output": 3}]}
    file.write_text("\n" + json.dumps(row) + "\n")
    (task,) = read_tasks(file)
    assert (task.name, task.instruction, task.is_classification) == ("a", "Add.", False)
    assert (task.instances[0].input, task.instances[0].output) == ("", "3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no tasks in it"),
        ("{", "line 1: not JSON"),
        ("[]", "line 1: not a task"),
        ('{"id": 1, "instruction": "x"}', "missing or wrong: 'instances'"),
        ('{"id": 1, "instruction": "x", "instances": []}', "no instance with an output"),
        ('{"id": 1, "instruction": "x", "instances": [{"output": "y"}]}\n' * 2, "the same id"),
    ],
)
def test_invalid_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "seeds.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_tasks(file)
