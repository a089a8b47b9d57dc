"""A finished run is used on other data, and what it says of one file leaves what it said of another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers import commands

from peftkit.data.files import read_file

Words = Callable[..., list[str]]


@pytest.fixture
def rated(tiny: Words, tmp_path: Path) -> Path:
    """Return the folder of a run that tells good films from bad."""
    file = films(tmp_path / "films.csv", 20)
    words = ["task=classification", f"task.dataset={file}", "task.text=[text]", "task.label=label"]
    return commands.finetune(*tiny("bert", *words))[0]


def films(file: Path, number: int) -> Path:
    file.parent.mkdir(exist_ok=True)
    rows = [f"the film is {'great' if row % 2 else 'bad'} {row},{['bad', 'good'][row % 2]}" for row in range(number)]
    file.write_text("\n".join(["text,label", *rows]))
    return file


def test_evaluations_on_two_files_lie_side_by_side(rated: Path, tmp_path: Path) -> None:
    commands.evaluate(rated)
    for folder, number in {"a": 6, "b": 8, "c": 6}.items():  # c is a, byte by byte
        commands.evaluate(rated, f"task.dataset={films(tmp_path / folder / 'more films.csv', number)}")
    found = sorted(file.name for file in rated.glob("evaluation-*.json"))
    assert len(found) == 3 and found[0].startswith("evaluation-classification-more-films-")
    assert found[-1] == "evaluation-classification.json"  # of the run's own data
    rows = [pq.read_metadata(file).num_rows for file in rated.glob("predictions-*.parquet")]
    assert sorted(rows) == [2, 6, 8]


@pytest.mark.slow
def test_what_is_written_to_new_text_has_no_likelihood(tiny: Words, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text('{"text": "the film", "more": "is great"}\n' * 8)
    (data / "validation.jsonl").write_text('{"text": "a film", "more": "is bad"}\n{"text": "the film"}\n')
    words = ["task=seq2seq", f"task.dataset={data}", "task.text=[text]", "task.label=more"]
    (folder,) = commands.finetune(*tiny("t5", *words, "task.max_target_length=3"))
    known, hidden = pq.read_table(folder / "predictions.parquet")["scores"].to_pylist()
    assert len(known) == 2 and hidden is None
    for ending in ("jsonl", "csv", "parquet"):
        commands.predict(folder, data / "validation.jsonl", f"output={tmp_path}/told.{ending}")
        told = read_file(tmp_path / f"told.{ending}").to_list()
        assert [row["scores"] for row in told] == [None, None] and all("prediction" in row for row in told)
