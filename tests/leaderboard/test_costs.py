"""Costs relative to full fine-tuning: time to a given quality, and a composite score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.recorded_runs import write_run

from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.stats import board_entries


def rows(root: Path) -> dict[str, BoardEntry]:
    return {row.method: row for row in board_entries(collect([root]))}


def add(root: Path, method: str, curve: list[float], costs: dict[str, float]) -> None:
    """Write a run of 8 seconds of training whose chosen trial went through these scores, one an epoch."""
    write_run(root, method, method=method, value=0.8, seconds=8.0)
    file = root / method / "result.json"
    result = json.loads(file.read_text())
    points = [{"epoch": n + 1.0, "seconds": 99.0, "score": score} for n, score in enumerate(curve)]
    result["search"] = {"trials": [{"learning_rate": 1.0}], "curve": points}
    result["costs"] |= costs
    file.write_text(json.dumps(result))


def test_time_to_quality_is_of_the_own_training_of_an_entry(tmp_path: Path) -> None:
    add(tmp_path, "full", [0.5, 0.7, 0.79, 0.8], {})
    add(tmp_path, "lora", [0.5, 0.77, 0.9, 0.9], {})
    add(tmp_path, "prompt", [0.1, 0.2, 0.3, 0.4], {})
    found = {name: row.timed["cpu"].get("seconds_to_quality") for name, row in rows(tmp_path).items()}
    assert found == {"full": 6.0, "lora": 4.0, "prompt": None}


def test_the_composite_divides_by_one_plus_each_cost_over_its_constant(tmp_path: Path) -> None:
    add(tmp_path, "full", [0.8], {"trainable_params": 100, "latency_ms": 10.0, "train_peak_bytes": 1000.0})
    add(tmp_path, "lora", [0.8], {"trainable_params": 1, "latency_ms": 15.0, "train_peak_bytes": 500.0})
    found = rows(tmp_path)
    assert found["full"].timed["cpu"]["pscp"] == pytest.approx(0.8 / 8)
    assert found["lora"].timed["cpu"]["pscp"] == pytest.approx(0.8 / 1.01 / 2.5 / 1.5)


def test_without_full_fine_tuning_there_is_no_composite_and_the_best_entry_sets_the_quality(tmp_path: Path) -> None:
    add(tmp_path, "lora", [0.5, 0.9], {"latency_ms": 15.0, "train_peak_bytes": 500.0})
    (row,) = rows(tmp_path).values()
    assert "pscp" not in row.timed["cpu"]
    assert row.timed["cpu"]["seconds_to_quality"] == 8.0


def test_an_error_has_neither_share_nor_composite(tmp_path: Path) -> None:
    for method in ("full", "lora"):
        write_run(tmp_path, method, method=method, value=0.5, metrics={"mean_squared_error": False}, seconds=8.0)
    assert all(not {"pscp", "seconds_to_quality"} & row.timed["cpu"].keys() for row in rows(tmp_path).values())
