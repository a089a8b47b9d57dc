"""A broken, foreign or hostile result is one entry with a reason; the rest of the board is unchanged."""

from __future__ import annotations

import io
import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.recorded_runs import write_run
from rich.console import Console

from peftkit.leaderboard import table
from peftkit.leaderboard.archive import write_archive
from peftkit.leaderboard.board import Board
from peftkit.leaderboard.page import page_data, write_page
from peftkit.leaderboard.predictions import read_run_predictions
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardRun, UnreadableRun

DEEP: list = []
for _ in range(500):
    DEEP = [DEEP]
BROKEN: list[tuple[str, Any, str]] = [
    ("run", None, "run: expected an object"),
    ("run/config/task", [], "run.config.task: expected an object"),
    ("run/config/task/name", ["rte"], "run.config.task.name: expected a text"),
    ("run/config/method/name", "m" * 301, "more than 300 characters"),
    ("run/overrides", "seed=1", "run.overrides: expected a list"),
    ("scores/accuracy/value", "0.9", "scores.accuracy.value: expected a number"),
    ("costs/latency_ms", 1e308, "costs.latency_ms: expected a number"),
    ("language", {"held_out": {"before": 1e200, "after": 1}}, "too large"),
    ("scores/accuracy/value", 10**400, "too large"),
    ("scores/accuracy/higher_is_better", 1, "expected true or false"),
    ("costs/train_seconds", -1, "costs.train_seconds: expected a number of 0 or more"),
    ("costs/train_seconds", True, "costs.train_seconds"),
    ("meta/seed", 1.5, "meta.seed: expected a whole number"),
    ("meta/seed", -1, "meta.seed"),
    ("audit/sources/model/name", {}, "audit.sources.model.name: expected a text"),
    ("audit/rows/train", float("inf"), "audit.rows.train: expected a whole number"),
    ("search", {"trials": [None]}, "search.trials[0]: expected an object"),
    ("search", {"curve": [{"epoch": 0, "score": 1}]}, "search.curve"),
    ("language", {"held_out": {"before": 1, "after": 1}}, "language.general is missing"),
    ("gates", DEEP, "nested too deeply"),
    ("extra", [0] * 200_001, "more than 200,000 values"),
]


def changed(root: Path, key: str, value: Any) -> None:
    write_run(root, "changed", seed=1)
    file = root / "changed" / "result.json"
    record = json.loads(file.read_text())
    *above, last = key.split("/")
    place = record
    for part in above:
        place = place[part]
    place[last] = value
    file.write_text(json.dumps(record))


def shown(root: Path) -> tuple[str, list[UnreadableRun]]:
    """Return the terminal's text, and the broken runs; the page is written too."""
    board = Board.read([root])
    text = io.StringIO()
    table.show(board, Console(file=text, width=300))
    write_page(page_data(board), root / "page.html")
    return text.getvalue(), [run for run in board.runs if isinstance(run, UnreadableRun)]


@pytest.mark.parametrize(("key", "value", "reason"), BROKEN)
def test_a_wrong_field_is_named_and_the_other_runs_are_shown(tmp_path: Path, key: str, value: Any, reason: str) -> None:
    write_run(tmp_path, "good", value=0.7)
    changed(tmp_path, key, value)
    text, (broken,) = shown(tmp_path)
    assert broken.problem.startswith("broken: ") and reason in broken.problem
    assert "70.0" in text and f"({broken.folder})" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_cost_that_is_not_finite_is_missing_and_such_a_score_is_no_result(tmp_path: Path, value: float) -> None:
    changed(tmp_path, "costs/train_seconds", value)
    (run,) = collect([tmp_path])
    assert isinstance(run, BoardRun) and "train_seconds" not in run.costs
    changed(tmp_path / "b", "scores/accuracy/value", value)
    (run,) = collect([tmp_path / "b"])
    assert run.problem == f"accuracy is {value}"
    changed(tmp_path / "c", "scores/accuracy/value", -1e308)
    (run,) = collect([tmp_path / "c"])
    assert run.problem == "accuracy is -1e+308"


def test_only_regular_files_of_limited_size_are_read(tmp_path: Path) -> None:
    write_run(tmp_path, "good", value=0.7)
    for name in ("fifo", "dangling", "loop", "device", "folder", "huge", "bytes"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "fifo" / "result.json")
    (tmp_path / "dangling" / "result.json").symlink_to("missing")
    (tmp_path / "loop" / "result.json").symlink_to("result.json")
    (tmp_path / "device" / "result.json").symlink_to("/dev/zero")
    (tmp_path / "folder" / "result.json").mkdir()
    with (tmp_path / "huge" / "result.json").open("wb") as file:
        file.truncate(2**34)
    (tmp_path / "bytes" / "result.json").write_bytes(b"\xff\xfe{")
    text, broken = shown(tmp_path)
    assert "70.0" in text
    reasons = {run.folder.name: run.problem for run in broken}
    assert reasons["fifo"] == reasons["device"] == "broken: it is not a regular file"
    assert reasons["folder"] == "broken: it is a folder, not a file"
    assert reasons["dangling"] == "broken: result.json is missing"
    assert set(reasons) == {"fifo", "dangling", "loop", "device", "folder", "huge", "bytes"}


def test_text_of_a_result_is_no_markup_and_no_control_sequence(tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>\x1b[31m\u202e"
    changed(tmp_path, "run/config/method/name", hostile)
    text, _ = shown(tmp_path)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "\x1b" not in text and "\u202e" not in text
    assert "<img" not in page


def test_names_in_an_archive_do_not_lead_out_of_it(tmp_path: Path) -> None:
    write_run(tmp_path / "secret", "run", value=0.1)
    write_run(tmp_path / "a", "x", value=0.7)
    file = tmp_path / "board.parquet"
    write_archive([tmp_path / "a" / "x"], file)
    (row,) = pq.read_table(file).to_pylist()
    names = [f"{tmp_path}/secret/run", "../secret/run", "x", "x", "", None, "\x00"]
    pq.write_table(pa.Table.from_pylist([{**row, "folder": name} for name in names], pq.read_schema(file)), file)
    runs = collect([file])
    assert {run.scores["accuracy"]["value"] for run in runs if isinstance(run, BoardRun) and not run.problem} == {0.7}
    assert len(runs) == len(names) and all(run.folder.is_relative_to(file) for run in runs)
    pq.write_table(pa.Table.from_pylist([{**row, "result": None}, row], pq.read_schema(file)), file)
    assert {type(run) for run in collect([file])} >= {UnreadableRun}


LABELS = {"id": [0, 1], "split": ["validation"] * 2, "label": [0, 1], "prediction": [0, 1]}
DAMAGED: dict[str, dict[str, list]] = {
    "other columns": {"a": [1]},
    "null prediction": {**LABELS, "prediction": [0, None]},
    "null split": {**LABELS, "split": [None, "validation"]},
    "infinite": {**LABELS, "prediction": [0.0, float("inf")]},
    "dates": {**LABELS, "prediction": [date(2026, 1, 1)] * 2},
    "structs": {**LABELS, "prediction": [{"a": 1}] * 2},
    "empty": {name: [] for name in LABELS},
}


@pytest.mark.parametrize("columns", DAMAGED.values(), ids=DAMAGED)
def test_damaged_predictions_are_no_predictions(tmp_path: Path, columns: dict[str, list]) -> None:
    pq.write_table(pa.table(columns), tmp_path / "predictions.parquet")
    assert read_run_predictions([tmp_path]) == [None]


def test_a_damaged_file_or_a_pipe_holds_no_predictions(tmp_path: Path) -> None:
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1 damaged")
    assert read_run_predictions([tmp_path]) == [None]
    (tmp_path / "predictions.parquet").unlink()
    os.mkfifo(tmp_path / "predictions.parquet")
    assert read_run_predictions([tmp_path]) == [None]


def test_a_run_with_a_damaged_log_or_predictions_is_archived(tmp_path: Path) -> None:
    write_run(tmp_path, "x", value=0.7)
    os.mkfifo(tmp_path / "x" / "log.jsonl")
    (tmp_path / "x" / "predictions.parquet").write_bytes(b"damaged")
    write_archive([tmp_path / "x"], tmp_path / "board.parquet")
    (run,) = collect([tmp_path / "board.parquet"])
    assert run.problem is None
