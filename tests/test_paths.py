"""Names from configs, checkpoints and data never leave their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.commands import check

from peftkit.paths import safe_name

NAMES = ["", " ", ".", "..", "...", "../../x", "/etc/passwd", "a/b", "a\\b", "a\0b", "a\nb", "\x1b[31m", "é" * 200, "x" * 5000, "名" * 99, "\udc80", "CON:", "~"]  # fmt: skip


@pytest.mark.parametrize("text", [*NAMES, *(f"{name}.json" for name in NAMES)])
def test_a_name_is_one_part_of_a_path(text: str, tmp_path: Path) -> None:
    name = safe_name(text)
    folder = tmp_path / name
    folder.mkdir()
    assert Path(os.path.realpath(folder)).parent == Path(os.path.realpath(tmp_path))
    assert name == safe_name(name) and name.isprintable() and not name.startswith(".") and len(name.encode()) <= 120


def test_names_that_were_safe_stay_as_they_are() -> None:
    assert safe_name("my task-1.2_b") == "my-task-1.2_b"
    assert safe_name("google-bert--bert-base-uncased") == "google-bert--bert-base-uncased"
    assert safe_name("x" * 300) != safe_name("x" * 301)


def test_a_config_has_no_name_that_leaves_its_folder() -> None:
    messages = check(["task.name=../../x", "model.name=..", "method.name='a\tb'", f"task.suite={'x' * 200}"])
    assert len(messages) == 4 and all("expected a name of at most 120 bytes" in message for message in messages)
    assert all(message.isprintable() for message in messages)
    assert check(["task.name='my task'", "method.name='naïve'"]) == []
