"""Tables of predictions are read back with the same values, and files appear whole or not at all."""

from __future__ import annotations

import csv
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from helpers.disks import largest_file

from peftkit.config.errors import WriteError
from peftkit.data.streaming import EmbeddingFileWriter
from peftkit.paths import atomic_write, safe_name
from peftkit.results.tables import write_table

TEXTS = [
    "plain", "tab\there", "line\nbreak", "carriage\rreturn\r\n", 'a "quote"', '"all quoted"', "a, b; c", " spaces ", "日本語，中国",
    "C:\\new ${x}", "'", '"', "\u2028", "# no comment", "sep=,", "NA", "007", "[1, 2]",
]  # fmt: skip


def table() -> Dataset:
    count = len(TEXTS)
    return Dataset.from_dict(
        {
            "a name\twith, signs": TEXTS,
            "number": [None, *range(1, count)],
            "words": [["two", "words"], ["[", "a"], ["a b"], [], None] + [["x"]] * (count - 5),
            "nested": [{"text": ["a\tb"], "start": [1]}] * count,
            "day": [datetime.datetime(2024, 5, 1, 12, 30)] * count,
            "prediction": ["neg", None] + ["pos"] * (count - 2),
            "scores": [[0.25, 0.75], None] + [[1.0, 0.0]] * (count - 2),
        }
    )


@pytest.mark.parametrize(("ending", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_cells_are_read_back(tmp_path: Path, ending: str, separator: str) -> None:
    file = tmp_path / f"x{ending}"
    write_table(table(), file)
    with file.open(encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines, delimiter=separator, strict=True)
    assert header == table().column_names and [row[0] for row in rows] == TEXTS
    assert [row[1] for row in rows[:2]] == ["", "1"]
    assert [row[2] for row in rows[:5]] == ["two words", '["[", "a"]', '["a b"]', "[]", ""]
    assert json.loads(rows[0][3]) == {"text": ["a\tb"], "start": [1]} and rows[0][4] == "2024-05-01T12:30:00"
    assert rows[0][5:] == ["neg", "[0.25, 0.75]"] and rows[1][5:] == ["", ""]
    read = pd.read_csv(file, sep=separator, keep_default_na=False, dtype=str, lineterminator="\n")
    assert read[header[0]].tolist() == TEXTS


def test_texts_like_formulas_are_unchanged_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["=cmd|' /C calc'!A0", "\t@SUM(1)", "-1.5", "+2e-3", "- a film", "good"]
    write_table(Dataset.from_dict({"text": texts, "score": [-0.5] * 6}), tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as lines:
        assert [row[0] for row in csv.reader(lines)][1:] == texts
    assert f"!! 3 cells of {tmp_path}/x.csv begin like a formula" in capsys.readouterr().err
    write_table(Dataset.from_dict({"text": ["good"]}), tmp_path / "x.tsv")
    assert capsys.readouterr().err == ""


def test_lines_and_columns_are_read_back(tmp_path: Path) -> None:
    for ending in (".jsonl", ".parquet"):
        write_table(table(), tmp_path / f"x{ending}")
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    expected = [{**row, "day": row["day"].isoformat()} for row in table()]
    assert rows == expected and len(rows) == len(TEXTS)
    assert Dataset.from_parquet(str(tmp_path / "x.parquet"), cache_dir=str(tmp_path)).to_list() == table().to_list()


def test_nan_is_null_in_jsonl(tmp_path: Path) -> None:
    write_table(Dataset.from_dict({"x": [float("nan"), 1.5], "y": [b"caf\xc3\xa9", b"\xff"]}), tmp_path / "x.jsonl")
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [*map(json.loads, lines)] == [{"x": None, "y": "café"}, {"x": 1.5, "y": "ff"}]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"x{ending}"
    file.write_text("earlier")
    with largest_file(64), pytest.raises(WriteError, match=f"x{ending} cannot be written: File too large; free space"):
        write_table(table(), file)
    assert file.read_text() == "earlier" and [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("ending", [".npy", ".parquet"])
def test_embeddings_on_a_full_disk_leave_the_earlier_file(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"x{ending}"
    file.write_text("earlier")
    with largest_file(64), pytest.raises(WriteError, match="cannot be written"), EmbeddingFileWriter(file) as writer:
        writer.add([0], ["text"], np.ones((1, 4096)), np.ones(1, bool))
    assert file.read_text() == "earlier" and [*tmp_path.iterdir()] == [file]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), atomic_write(tmp_path / "new" / "x.csv") as part:
        part.write_text("half")
        raise ValueError("stop")
    assert [*tmp_path.rglob("*")] == [tmp_path / "new"]


@pytest.mark.parametrize("make", [lambda file: file.mkdir(), lambda file: file.parent.joinpath("x" * 300 + ".csv")])
def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, make: Any) -> None:
    file = make(tmp_path / "x.csv") or tmp_path / "x.csv"
    with pytest.raises(WriteError, match=r"cannot be written: (Is a directory|File name too long)"):
        write_table(table(), file)
    assert not [each for each in tmp_path.iterdir() if each.is_file()]


def test_a_link_remains_and_long_names_can_be_written(tmp_path: Path) -> None:
    real, link = tmp_path / f"{'é' * 125}.csv", tmp_path / "link.csv"  # 254 bytes
    real.touch(mode=0o600)
    link.symlink_to(real)
    write_table(table(), link)
    assert link.is_symlink() and real.stat().st_size > 100 and real.stat().st_mode & 0o777 == 0o600


def test_long_names_are_shortened_and_remain_different() -> None:
    names = {safe_name(f"{'雨' * 200}{number}") for number in range(3)}
    assert len(names) == 3 and all(len(name.encode()) <= 120 for name in names)
    assert safe_name("a/b c") == "a-b-c"
