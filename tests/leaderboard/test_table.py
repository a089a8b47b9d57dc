"""The board groups seeds, keeps stand-ins apart and hides nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftkit.leaderboard import stats, table


def write(root: Path, name: str, method: str, seed: int, value: float, **more: object) -> None:
    source = {"kind": "hub", "name": "bert", "revision": "1", "substituted_for": more.get("substituted_for")}
    record = {
        "run": {"config": {"model": {"name": "bert"}, "method": {"name": method}, "task": {"name": more.get("task", "rte"), "suite": "glue"}, "seed": seed, "train": {"learning_rate": more.get("rate", 1)}}},
        "scores": {"accuracy": {"value": value, "higher_is_better": True}},
        "costs": {"trainable_params": 10, "total_params": 100, "adapter_bytes": 40, "train_seconds": 2.0},
        "audit": {"sources": {"model": source, "data": {**source, "substituted_for": None}}, "rows": {"train": 5}},
        "meta": {"seed": seed, "device": more.get("device", "cpu"), "status": more.get("status", "finished"), "reason": more.get("reason")},
    }  # fmt: skip
    (root / name).mkdir(parents=True)
    (root / name / "result.json").write_text(json.dumps(record))


def test_seeds_become_one_row_with_mean_spread_and_delta(tmp_path: Path) -> None:
    for seed, value in enumerate((0.5, 0.6, 0.7)):
        write(tmp_path, f"l{seed}", "lora", seed, value)
    write(tmp_path, "f", "full", 0, 0.8)
    full, lora = table.board(table.collect([tmp_path]))
    assert (full.method, lora.method) == ("full", "lora")
    assert lora.scores["accuracy"] == stats.Summary(pytest.approx(0.6), pytest.approx(0.1), 3)
    assert lora.delta == pytest.approx(-0.2)
    assert lora.seeds == [0, 1, 2]


def test_a_stand_in_never_shares_a_table_with_the_real_thing(tmp_path: Path) -> None:
    write(tmp_path, "real", "lora", 0, 0.5)
    write(tmp_path, "mini", "lora", 0, 0.5, substituted_for="google-bert/bert-base-uncased")
    boards = [row.board for row in table.board(table.collect([tmp_path]))]
    assert len(set(boards)) == 2
    assert any(title.startswith("EMBEDDED") for title in boards)


def test_settings_tell_rows_of_one_method_apart(tmp_path: Path) -> None:
    write(tmp_path, "a", "lora", 0, 0.5, rate=1)
    write(tmp_path, "b", "lora", 0, 0.6, rate=2)
    assert {row.settings for row in table.board(table.collect([tmp_path]))} == {"learning_rate=1", "learning_rate=2"}


def test_failed_and_broken_results_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "bad", "lora", 0, 0.5, status="failed", reason="out of memory")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "result.json").write_text('{"run": ')
    table.show(table.collect([tmp_path]))
    text = capsys.readouterr().out
    assert "out of memory" in text
    assert "cannot be read" in text


def test_text_of_a_run_cannot_break_the_files(tmp_path: Path) -> None:
    write(tmp_path, "x", "=cmd|' /C calc'!A0", 0, 0.5)
    table.write(table.collect([tmp_path]), tmp_path / "board")
    assert ",'=cmd|" in (tmp_path / "board" / "leaderboard.csv").read_text()
    assert "=cmd\\|" in (tmp_path / "board" / "leaderboard.md").read_text()


def test_glue_average_is_the_mean_over_nine_tasks_or_none() -> None:
    scores = {task: number / 10 for number, task in enumerate(stats.GLUE)}
    assert stats.glue_average(scores) == pytest.approx(0.4)
    del scores["wnli"]
    assert stats.glue_average(scores) is None
    assert stats.missing_tasks(scores) == ["wnli"]
