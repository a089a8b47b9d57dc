"""Seeds become a mean with its spread, tasks become GLUE's average, and nothing inflates either."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from helpers.recorded_runs import write_run

from peftkit.leaderboard.glue import glue_average, glue_entries
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import Summary, UnreadableRun
from peftkit.leaderboard.stats import GLUE, board_entries, summarize, task_score


def test_spread_is_the_sample_standard_deviation() -> None:
    assert summarize([1.0, 2.0, 4.0]) == Summary(pytest.approx(7 / 3), pytest.approx(math.sqrt(7 / 3)))
    assert summarize([0.5]) == Summary(0.5, None)


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


def test_seeds_become_one_entry_with_mean_spread_and_delta(tmp_path: Path) -> None:
    for seed, value in enumerate((0.5, 0.6, 0.7)):
        write_run(tmp_path, f"l{seed}", seed=seed, value=value)
    write_run(tmp_path, "f", method="full", value=0.8)
    full, lora = board_entries(collect([tmp_path]))
    assert (full.method, full.is_reference, lora.method) == ("full", True, "lora")
    assert lora.scores["accuracy"] == Summary(pytest.approx(0.6), pytest.approx(0.1))
    assert lora.delta == pytest.approx(-0.2)
    assert lora.seeds == [0, 1, 2]


def test_full_fine_tuning_on_other_examples_is_no_reference(tmp_path: Path) -> None:
    write_run(tmp_path, "f", method="full", value=0.8, rows={"train": 99})
    write_run(tmp_path, "l", rows={"train": 5})
    assert [row.delta for row in board_entries(collect([tmp_path]))] == [None, None]


def test_a_copied_run_is_no_second_seed(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    shutil.copytree(tmp_path / "a", tmp_path / "backup")
    results = collect([tmp_path])
    (row,) = board_entries(results)
    assert (row.seeds, len(row.scored_runs)) == ([0], 1)
    assert [r.problem for r in results if r.problem] == [f"the same run as {tmp_path / 'a'}, which counts"]


def test_a_failed_seed_stays_with_its_siblings(tmp_path: Path) -> None:
    write_run(tmp_path, "a", seed=0)
    write_run(tmp_path, "b", seed=1, status="failed", reason="out of memory")
    (row,) = board_entries(collect([tmp_path]))
    assert (row.seeds, row.planned, row.problems) == ([0], 2, ["seed 1 failed: out of memory"])


def test_what_does_not_change_a_result_does_not_split_an_entry(tmp_path: Path) -> None:
    write_run(tmp_path, "a", seed=0)
    write_run(tmp_path, "b", seed=1, train={"disable_tqdm": True})
    assert [row.seeds for row in board_entries(collect([tmp_path]))] == [[0, 1]]


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({"rate": 2}, {"learning_rate=1", "learning_rate=2"}),  # stands in method and in train, named once
        ({"rows": {"train": 64}}, {"examples.train=5", "examples.train=64"}),
        ({"revision": "2"}, {"sources.model.revision=1", "sources.model.revision=2"}),
    ],
)
def test_entries_of_one_method_differ_by_what_is_shown(tmp_path: Path, change: dict, settings: set[str]) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", **change)
    assert {row.settings for row in board_entries(collect([tmp_path]))} == settings


def test_smaller_errors_come_first(tmp_path: Path) -> None:
    write_run(tmp_path, "worse", method="ia3", value=0.9, metrics={"mean_squared_error": False})
    write_run(tmp_path, "better", method="lora", value=0.1, metrics={"mean_squared_error": False})
    assert [row.method for row in board_entries(collect([tmp_path]))] == ["lora", "ia3"]


def test_a_score_of_nan_does_not_count(tmp_path: Path) -> None:
    write_run(tmp_path, "a", value=float("nan"))
    (row,) = board_entries(collect([tmp_path]))
    assert (row.score, row.problems) == (None, ["seed 0 accuracy is nan"])


@pytest.mark.parametrize(
    "text", ['{"run": ', "[]", "null", "{}", '{"run": {"config": []}}', '{"meta": {"status": "x"}}']
)
def test_a_broken_result_is_named_and_not_fatal(tmp_path: Path, text: str) -> None:
    write_run(tmp_path, "good")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "result.json").write_text(text)
    results = collect([tmp_path])
    assert [r.folder.name for r in results if isinstance(r, UnreadableRun) and r.problem.startswith("broken: ")] == [
        "torn"
    ]
    assert len(board_entries(results)) == 1


def test_costs_of_two_machines_are_not_averaged(tmp_path: Path) -> None:
    write_run(tmp_path, "a", seed=0, device="cpu", seconds=100.0)
    write_run(tmp_path, "b", seed=1, device="gpu", seconds=2.0)
    (row,) = board_entries(collect([tmp_path]))
    assert {device: costs["train_seconds"] for device, costs in row.timed.items()} == {"cpu": 100.0, "gpu": 2.0}


def test_a_substitute_never_shares_a_board_with_real_data(tmp_path: Path) -> None:
    write_run(tmp_path, "real")
    write_run(tmp_path, "model", model_for="google-bert/bert-base-uncased")
    write_run(tmp_path, "data", data="miniglue", data_for="nyu-mll/glue")
    write_run(tmp_path, "both", model_for="google-bert/bert-base-uncased", data="miniglue", data_for="nyu-mll/glue")
    titles = [row.board for row in board_entries(collect([tmp_path]))]
    assert len(set(titles)) == 4
    assert [title.startswith("OFFLINE") for title in titles] == [False, True, True, True]


def test_a_task_tuned_apart_leaves_the_glue_average_whole(tmp_path: Path) -> None:
    for seed in (0, 1):
        for number, task in enumerate(GLUE):
            write_run(tmp_path, f"{task}{seed}", task=task, seed=seed, value=number / 10 + seed / 100)
    write_run(tmp_path, "tuned", task="cola", rate=2)
    whole, tuned = glue_entries(board_entries(collect([tmp_path])))
    assert (whole.average, whole.spread) == (pytest.approx(0.405), pytest.approx(0.01 / math.sqrt(2)))
    assert (tuned.average, tuned.missing) == (None, list(GLUE[1:]))
    assert (whole.settings, tuned.settings) == ("learning_rate=1", "learning_rate=2")


def test_tasks_of_unlike_limits_share_a_line_unless_one_has_several(tmp_path: Path) -> None:
    for task in GLUE:
        write_run(tmp_path, task, task=task, limit=400 if task == "rte" else 1000)
    (line,) = glue_entries(board_entries(collect([tmp_path])))
    assert (line.missing, line.settings) == ([], "")
    write_run(tmp_path, "again", task="cola", limit=500)
    assert len(glue_entries(board_entries(collect([tmp_path])))) == 3


def test_own_data_of_a_glue_name_is_not_glue(tmp_path: Path) -> None:
    write_run(tmp_path, "own", task="rte", suite="own")
    assert glue_entries(board_entries(collect([tmp_path]))) == []


def test_an_entry_is_labeled_by_the_settings_it_has_alone(tmp_path: Path) -> None:
    write_run(tmp_path, "plain")
    write_run(tmp_path, "gaussian", train={"init_lora_weights": "gaussian"})
    assert {entry.settings for entry in board_entries(collect([tmp_path]))} == {"", "init_lora_weights=gaussian"}


def test_a_suite_and_tasks_of_ones_own_share_a_board(tmp_path: Path) -> None:
    for method in ("full", "lora"):
        for task in ("tickets", "mails"):
            write_run(tmp_path, f"{method}{task}", method=method, task=task, suite="mine", data="data/tickets.csv")
    entries = board_entries(collect([tmp_path]))
    assert {(entry.board, entry.suite) for entry in entries} == {("mine, data from data/tickets.csv", "mine")}
    assert [entry.task for entry in entries] == ["mails", "mails", "tickets", "tickets"]
    assert glue_entries(board_entries(collect([tmp_path]))) == []
