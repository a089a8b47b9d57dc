"""Seeds become a mean with its spread, tasks become GLUE's average, and nothing inflates either."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from peftkit.leaderboard import Broken, collect
from peftkit.leaderboard.stats import (
    GLUE,
    Summary,
    board,
    glue_average,
    glue_table,
    missing_tasks,
    summarize,
    task_score,
)


def write(
    root: Path, name: str, method: str = "lora", task: str = "rte", seed: int = 0, value: float = 0.5, rate: float = 1,
    metrics: dict[str, bool] | None = None, suite: str = "glue", model: str = "bert", model_for: str | None = None,
    data: str = "nyu-mll/glue", data_for: str | None = None, device: str = "cpu", seconds: float = 2.0,
    rows: dict[str, int] | None = None, status: str = "finished", reason: str | None = None, revision: str = "1",
    train: dict[str, Any] | None = None, limit: int | None = None,
) -> None:  # fmt: skip
    """Write a result.json as a run leaves it; one that failed has neither scores nor costs nor counted rows."""
    is_done = status == "finished"
    scores = {m: {"value": value, "higher_is_better": up} for m, up in (metrics or {"accuracy": True}).items()}
    costs = {
        "trainable_params": 10,
        "head_params": 2,
        "total_params": 100,
        "adapter_bytes": 40,
        "train_seconds": seconds,
    }
    sources = {
        "model": {"kind": "hub", "name": model, "revision": revision, "substituted_for": model_for},
        "data": {"kind": "hub", "name": data, "revision": None, "substituted_for": data_for},
    }
    config = {
        "model": {"name": "bert"}, "method": {"name": method, "learning_rate": rate}, "seed": seed,
        "task": {"name": task, "suite": suite, "max_train_samples": limit}, "train": {"learning_rate": rate, **(train or {})},
    }  # fmt: skip
    record = {
        "run": {"config": config},
        "scores": scores if is_done else {},
        "costs": costs if is_done else {},
        "audit": {"sources": sources, **({"rows": rows or {"train": 5}} if is_done else {})},
        "meta": {"seed": seed, "device": device, "started": "2026-01-01", "status": status, "reason": reason},
    }
    (root / name).mkdir(parents=True)
    (root / name / "result.json").write_text(json.dumps(record))


def test_spread_is_the_sample_standard_deviation() -> None:
    assert summarize([1.0, 2.0, 4.0]) == Summary(pytest.approx(7 / 3), pytest.approx(math.sqrt(7 / 3)), 3)
    assert summarize([0.5]) == Summary(0.5, None, 1)


def test_a_task_score_is_the_mean_of_its_metrics() -> None:
    up = {"value": 0.8, "higher_is_better": True}, {"value": 0.6, "higher_is_better": True}
    assert task_score({"accuracy": up[0], "f1": up[1]}) == pytest.approx(0.7)


def test_an_error_counts_negative_and_never_mixes_with_scores() -> None:
    error, score = {"value": 3.0, "higher_is_better": False}, {"value": 0.8, "higher_is_better": True}
    assert task_score({"mean_squared_error": error}) == -3.0
    assert task_score({"mean_squared_error": error, "pearson": score}) == 0.8


def test_glue_average_is_the_mean_over_nine_tasks_or_none() -> None:
    scores = {task: number / 10 for number, task in enumerate(GLUE)}
    assert glue_average(scores) == pytest.approx(0.4)
    assert glue_average({**scores, "ax": 9.0}) == pytest.approx(0.4)  # a diagnostic, not counted
    del scores["wnli"]
    assert glue_average(scores) is None
    assert missing_tasks(scores) == ["wnli"]


def test_seeds_become_one_row_with_mean_spread_and_delta(tmp_path: Path) -> None:
    for seed, value in enumerate((0.5, 0.6, 0.7)):
        write(tmp_path, f"l{seed}", seed=seed, value=value)
    write(tmp_path, "f", method="full", value=0.8)
    full, lora = board(collect([tmp_path]))
    assert (full.method, full.is_reference, lora.method) == ("full", True, "lora")
    assert lora.scores["accuracy"] == Summary(pytest.approx(0.6), pytest.approx(0.1), 3)
    assert lora.delta == pytest.approx(-0.2)
    assert lora.seeds == [0, 1, 2]


def test_full_tuning_on_other_rows_is_no_reference(tmp_path: Path) -> None:
    write(tmp_path, "f", method="full", value=0.8, rows={"train": 99})
    write(tmp_path, "l", rows={"train": 5})
    assert [row.delta for row in board(collect([tmp_path]))] == [None, None]


def test_a_copied_run_is_no_second_seed(tmp_path: Path) -> None:
    write(tmp_path, "a")
    shutil.copytree(tmp_path / "a", tmp_path / "backup")
    results = collect([tmp_path])
    (row,) = board(results)
    assert (row.seeds, row.scores["accuracy"].n) == ([0], 1)
    assert [r.problem for r in results if r.problem] == [f"the same run as {tmp_path / 'a'}, which counts"]


def test_a_failed_seed_stays_with_its_siblings(tmp_path: Path) -> None:
    write(tmp_path, "a", seed=0)
    write(tmp_path, "b", seed=1, status="failed", reason="out of memory")
    (row,) = board(collect([tmp_path]))
    assert (row.seeds, row.asked, row.problems) == ([0], 2, ["seed 1 failed: out of memory"])


def test_what_does_not_change_a_result_does_not_split_a_row(tmp_path: Path) -> None:
    write(tmp_path, "a", seed=0)
    write(tmp_path, "b", seed=1, train={"disable_tqdm": True})
    assert [row.seeds for row in board(collect([tmp_path]))] == [[0, 1]]


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({"rate": 2}, {"learning_rate=1", "learning_rate=2"}),  # stands in method and in train, named once
        ({"rows": {"train": 64}}, {"rows.train=5", "rows.train=64"}),
        ({"revision": "2"}, {"sources.model.revision=1", "sources.model.revision=2"}),
    ],
)
def test_rows_of_one_method_differ_by_what_is_shown(tmp_path: Path, change: dict, settings: set[str]) -> None:
    write(tmp_path, "a")
    write(tmp_path, "b", **change)
    assert {row.settings for row in board(collect([tmp_path]))} == settings


def test_smaller_errors_come_first(tmp_path: Path) -> None:
    write(tmp_path, "worse", method="ia3", value=0.9, metrics={"mean_squared_error": False})
    write(tmp_path, "better", method="lora", value=0.1, metrics={"mean_squared_error": False})
    assert [row.method for row in board(collect([tmp_path]))] == ["lora", "ia3"]


def test_a_score_that_is_no_number_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, "a", value=float("nan"))
    (row,) = board(collect([tmp_path]))
    assert (row.score, row.problems) == (None, ["seed 0 accuracy is nan"])


@pytest.mark.parametrize(
    "text", ['{"run": ', "[]", "null", "{}", '{"run": {"config": []}}', '{"meta": {"status": "x"}}']
)
def test_a_broken_result_is_named_and_not_fatal(tmp_path: Path, text: str) -> None:
    write(tmp_path, "good")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "result.json").write_text(text)
    results = collect([tmp_path])
    assert [r.folder.name for r in results if isinstance(r, Broken) and r.problem.startswith("cannot be read")] == [
        "torn"
    ]
    assert len(board(results)) == 1


def test_costs_of_two_machines_are_not_averaged(tmp_path: Path) -> None:
    write(tmp_path, "a", seed=0, device="cpu", seconds=100.0)
    write(tmp_path, "b", seed=1, device="gpu", seconds=2.0)
    (row,) = board(collect([tmp_path]))
    assert {device: costs["train_seconds"] for device, costs in row.timed.items()} == {"cpu": 100.0, "gpu": 2.0}


def test_a_stand_in_never_shares_a_board_with_the_real_thing(tmp_path: Path) -> None:
    write(tmp_path, "real")
    write(tmp_path, "model", model_for="google-bert/bert-base-uncased")
    write(tmp_path, "data", data="miniglue", data_for="nyu-mll/glue")
    write(tmp_path, "both", model_for="google-bert/bert-base-uncased", data="miniglue", data_for="nyu-mll/glue")
    titles = [row.board for row in board(collect([tmp_path]))]
    assert len(set(titles)) == 4
    assert [title.startswith("OFFLINE") for title in titles] == [False, True, True, True]


def test_a_task_tuned_apart_leaves_the_glue_average_whole(tmp_path: Path) -> None:
    for seed in (0, 1):
        for number, task in enumerate(GLUE):
            write(tmp_path, f"{task}{seed}", task=task, seed=seed, value=number / 10 + seed / 100)
    write(tmp_path, "tuned", task="cola", rate=2)
    whole, tuned = glue_table(collect([tmp_path]))
    assert (whole.average, whole.spread) == (pytest.approx(0.405), pytest.approx(0.01 / math.sqrt(2)))
    assert (tuned.average, tuned.missing) == (None, list(GLUE[1:]))
    assert (whole.settings, tuned.settings) == ("learning_rate=1", "learning_rate=2")


def test_tasks_of_unlike_limits_share_a_line_unless_one_has_several(tmp_path: Path) -> None:
    for task in GLUE:
        write(tmp_path, task, task=task, limit=400 if task == "rte" else 1000)
    (line,) = glue_table(collect([tmp_path]))
    assert (line.missing, line.settings) == ([], "")
    write(tmp_path, "again", task="cola", limit=500)
    assert len(glue_table(collect([tmp_path]))) == 3


def test_own_data_of_a_glue_name_is_not_glue(tmp_path: Path) -> None:
    write(tmp_path, "own", task="rte", suite="own")
    assert glue_table(collect([tmp_path])) == []
