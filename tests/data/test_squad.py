"""SQuAD's files and columns: unanswerable questions, and the positions of answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import compose_config

from peftkit.config import TaskConfig, UserError
from peftkit.config.console import ASSUMPTIONS, log_assumptions
from peftkit.data.datasets import load_task_dataset
from peftkit.data.tables import read_file

PASSAGE = "The car ferry carries cars. It was built in 1911, at pier 1."
BUILT = {"text": ["1911"], "answer_start": [PASSAGE.index("1911")]}
FERRY = {"text": ["car ferry"], "answer_start": [4]}
EMPTY: dict[str, list] = {"text": [], "answer_start": []}


@pytest.fixture(autouse=True)
def _forget_what_was_logged() -> None:
    ASSUMPTIONS.clear()


def read(file: Path, *overrides: str) -> list[Any]:
    words = ("task=question_answering", f"task.dataset={file}", "task.no_answer=true", *overrides)
    splits = load_task_dataset(TaskConfig(**compose_config(list(words)).task), None, "offline").splits
    rows = sorted((row for split in splits.values() for row in split), key=lambda row: int(str(row["id"]).strip("q")))
    return [row["label"] for row in rows]


def nested(file: Path, *answers: Any, **more: Any) -> Path:
    entries = [
        {"question": "when ?", "id": f"q{n}", "answers": each, **_row(more, n)}
        if each != "hidden"
        else {"question": "when ?"}
        for n, each in enumerate(answers)
    ]
    file.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [{"context": PASSAGE, "qas": entries}]}]}))
    return file


def _row(more: dict[str, Any], n: int) -> dict[str, Any]:
    return {name: value[n] if isinstance(value, list) else value for name, value in more.items()}


def flat(file: Path, *answers: Any, **more: Any) -> Path:
    rows = [
        {"question": "when ?", "context": PASSAGE, "answers": each, **_row(more, n)} for n, each in enumerate(answers)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.parametrize("start", [None, 44.0, "44", float("nan"), -1, "missing"])
@pytest.mark.parametrize("is_nested", [True, False])
def test_positions_are_integers_or_found_by_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], start: Any, is_nested: bool
) -> None:
    given = {} if start == "missing" else {"answer_start": start}
    answers = [[{"text": "1911", **given}]] * 3 + [
        [{"text": "car ferry", "answer_start": "4" if start == "44" else 4}]
    ] * 3
    assert (
        read(nested(tmp_path / "a.json", *answers) if is_nested else flat(tmp_path / "a.jsonl", *answers))
        == [BUILT] * 3 + [FERRY] * 3
    )
    is_searched = start in (None, -1, "missing") or start != start
    assert bool(re.search("[23] answers without answer_start were found by search\n", logged(capsys))) == is_searched


def test_the_columns_of_squad_may_have_single_and_null_starts(tmp_path: Path) -> None:
    cells = [
        {"text": ["1911"], "answer_start": [None]},
        {"text": ["1911"]},
        BUILT,
        EMPTY,
        {"text": [""], "answer_start": [0]},
    ]
    assert read(flat(tmp_path / "a.jsonl", *cells)) == [BUILT] * 3 + [EMPTY] * 2


def test_ambiguous_positions_are_whole_words_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [[{"text": text}] for text in ("car", "1", "r")]
    starts = [label["answer_start"][0] for label in read(nested(tmp_path / "a.json", *answers, "hidden"))[:3]]
    assert starts == [PASSAGE.index("car"), PASSAGE.index("1."), PASSAGE.index("r")]
    assert "the first of which is used: question" in logged(capsys)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [({"text": "1912"}, "'1912' of train is not in its passage .question q"),
     ({"text": "1911", "answer_start": 3}, "not at character 3 of its passage .question q"),
     ({"text": "1911", "answer_start": 3.5}, "3.5 of train is not a whole number"),
     ({"text": {"a": 1}, "answer_start": 44}, "answers of train")],
)  # fmt: skip
def test_a_wrong_position_is_refused_by_id(tmp_path: Path, answer: dict, cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        read(nested(tmp_path / "a.json", [answer], [answer], [answer]))


def test_is_impossible_overrides_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plausible = [{"text": "1911", "answer_start": 44}]
    for file in (
        nested(tmp_path / "a.json", *[plausible] * 6, is_impossible=[True] * 3 + [False] * 3),
        flat(tmp_path / "a.jsonl", *[plausible] * 6, is_impossible=[True] * 3 + [False] * 3),
        flat(tmp_path / "b.jsonl", *[plausible] * 6, is_impossible=["True"] * 3 + ["false"] * 3),
    ):
        assert read(file) == [EMPTY] * 3 + [BUILT] * 3
    assert re.search("answers to [23] questions with is_impossible=true are left out", logged(capsys))
    with pytest.raises(UserError, match=r"set task.no_answer=true"):
        read(file, "task.no_answer=false")
    with pytest.raises(UserError, match=r"question q. of train has is_impossible=false and no answer"):
        read(nested(tmp_path / "a.json", [], [], [], is_impossible=False))


def test_questions_without_ids_are_numbered(tmp_path: Path) -> None:
    file = nested(tmp_path / "a.json", [{"text": "1911"}], "hidden")
    assert "id" not in read_file(file).column_names
    file.write_text(json.dumps({"version": "x", "data": [{"question": "a ?", "context": PASSAGE, "answers": BUILT}]}))
    assert read_file(file)["answers"][0] == BUILT


@pytest.mark.parametrize(
    ("data", "cause"),
    [([{"paragraphs": [{"context": "a"}]}], r"data\[0\].paragraphs\[0\] has no list qas"),
     ([{"paragraphs": [{"qas": [{"question": "a"}]}]}], r"paragraphs\[0\] lacks a context"),
     ([{"paragraphs": 3}], r"data\[0\] has no list paragraphs")],
)  # fmt: skip
def test_an_incomplete_file_names_the_place(tmp_path: Path, data: list, cause: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"data": data}))
    with pytest.raises(UserError, match=cause):
        read_file(tmp_path / "a.json")


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    log_assumptions()
    return capsys.readouterr().err
