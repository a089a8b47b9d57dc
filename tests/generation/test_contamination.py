"""Overlaps with evaluation sets are found by n-grams of 8 and 13 words and exactly, whatever the punctuation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftkit.generation.contamination import EvaluationSets, file_texts
from peftkit.pipeline.generation import load_task_config

ROW = "The quick brown fox jumps over the lazy dog while seven wizards watch quietly from the hill"


@pytest.fixture
def sets() -> EvaluationSets:
    found = EvaluationSets()
    found.add("dev", [["unlike", "yes"], [ROW, "Is it a fox?"]])
    return found


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (ROW.upper() + "!", "exact"),
        ("is it a FOX", "exact"),
        ("yes", None),  # too short to count
        ("So: " + ROW.replace(" ", ", ", 3), "13-gram"),
        ("quick brown fox jumps over the lazy dog", "8-gram"),
        ("quick brown fox jumps over the lazy cat", None),
        ("", None),
    ],
)
def test_each_kind_of_overlap(sets: EvaluationSets, text: str, kind: str | None) -> None:
    found = sets.overlap(["something else", text])
    assert found is None if kind is None else str(found).startswith(f"{kind} of dev example 1: ")


def test_overlaps_are_found_in_any_script() -> None:
    found = EvaluationSets()
    found.add("dev", [["小猫坐在垫子上，看着窗外的大雨。"], ["मैं कल बाज़ार गया"]])
    assert str(found.overlap(["据说小猫坐在垫子上看着窗外的大雨停了"])).startswith("13-gram of dev example 0")
    assert str(found.overlap(["मैं कल बाज़ार गया।"])).startswith("exact of dev example 1")
    assert found.overlap(["猫在垫子上看着外面的雨", "मैं कल बाज़ार गयी"]) is None


def test_files_of_any_shape_give_their_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "1", "instances": [{"input": "", "output": ROW}]}) + "\n")
    (tmp_path / "b.txt").write_text("first line\nsecond line\n")
    (tmp_path / "c.csv").write_text("question,label\nWhat is it?,1\n")
    rows = list(file_texts(tmp_path))
    assert [[text for text in row if " " in text] for row in rows] == [
        [ROW], ["first line"], ["second line"], ["What is it?"],
    ]  # fmt: skip


def test_a_task_is_found_by_its_name() -> None:
    task = load_task_config("mrpc")
    assert (task.name, task.subset, task.text) == ("mrpc", "mrpc", ["sentence1", "sentence2"])
