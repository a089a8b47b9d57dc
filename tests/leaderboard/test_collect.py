"""Results of several people and machines are combined; incomparable ones are separate entries."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import commands
from helpers.commands import check
from helpers.recorded_runs import write_run

from peftkit.leaderboard.reading import collect, version_notes
from peftkit.leaderboard.runs import BoardRun, UnreadableRun
from peftkit.leaderboard.stats import board_entries

TRIAL = {"learning_rate": 1.0, "score": 0.9}


def put(root: Path, name: str, changes: dict[str, Any] | None = None, **told: Any) -> Path:
    """Write a run and set some of its keys, as put(root, "a", {"meta/versions": {}}, seed=1)."""
    write_run(root, name, **told)
    file = root / name / "result.json"
    record = json.loads(file.read_text())
    for key, value in (changes or {}).items():
        place = record
        *above, last = key.split("/")
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    file.write_text(json.dumps(record))
    return root / name


def on_disk(path: str, revision: str, part: str = "data") -> dict[str, Any]:
    source = {"kind": "folder", "name": path, "revision": revision, "substituted_for": None}
    return {f"audit/sources/{part}": source}


def using(**versions: str) -> dict[str, Any]:
    return {"meta/versions": {"peftkit": "0.1.0", "transformers": "5.1.0", "peft": "0.21.0", **versions}}


def read(*roots: Path) -> list[BoardRun]:
    return [result for result in collect(roots) if isinstance(result, BoardRun)]


def test_results_of_two_people_are_seeds_of_one_entry(tmp_path: Path) -> None:
    put(tmp_path / "mine", "a", on_disk("/home/me/glue/rte", "abc"), seed=0)
    put(tmp_path / "theirs", "b", on_disk("D:/data/rte", "abc"), seed=1)
    (row,) = board_entries(collect([tmp_path / "mine", tmp_path / "theirs"]))
    assert (row.seeds, row.board) == ([0, 1], "glue, data from a folder")


def test_a_training_split_of_another_name_is_counted_as_train(tmp_path: Path) -> None:
    counts = {"training": {"no": 1, "yes": 2}, "dev": {"no": 1, "yes": 1}}
    splits = {"run/config/task/splits": {"train": "training", "validation": ["dev"]}, "audit/label_counts": counts}
    put(tmp_path, "a", splits, rows={"training": 3, "dev": 2})
    (run,) = read(tmp_path)
    assert run.examples == {"train": 3, "dev": 2} and run.audit["label_counts"]["train"] == counts["training"]


def test_other_files_of_one_path_make_an_entry_of_their_own(tmp_path: Path) -> None:
    put(tmp_path, "a", on_disk("/data/glue/rte", "abc"), seed=0)
    put(tmp_path, "b", on_disk("/data/glue/rte", "def"), seed=1)
    assert {row.settings for row in board_entries(collect([tmp_path]))} == {
        "sources.data.revision=abc", "sources.data.revision=def"
    }  # fmt: skip


def test_no_entry_is_compared_with_full_fine_tuning_on_other_data(tmp_path: Path) -> None:
    put(tmp_path, "full", on_disk("/data/glue/rte", "abc"), method="full")
    put(tmp_path, "lora", on_disk("/data/glue/rte", "def"))
    assert [row.delta for row in board_entries(collect([tmp_path]))] == [None, None]


def test_own_data_is_identified_by_content(tmp_path: Path) -> None:
    paths = [("a", "/home/me/rows.csv", "abc"), ("b", "/tmp/rows-2.csv", "abc"), ("c", "/tmp/rows.csv", "def")]
    for seed, (name, path, revision) in enumerate(paths):
        changes = on_disk(path, revision) | {"run/config/task/dataset": path}
        put(tmp_path, name, changes, suite="own", task="classification", seed=seed)
    found = {row.board: row.seeds for row in board_entries(collect([tmp_path]))}
    assert found == {"own, data from rows.csv (abc)": [0, 1], "own, data from rows.csv (def)": [2]}


def test_a_checkpoint_on_disk_is_identified_by_its_weights(tmp_path: Path) -> None:
    for seed, path in enumerate(("/home/me/my-bert", "/mnt/my-bert")):
        changes = on_disk(path, "abc", "model") | {"run/config/model/checkpoint": path}
        put(tmp_path, f"{seed}", changes, seed=seed)
    (row,) = board_entries(collect([tmp_path]))
    assert (row.model, row.seeds) == ("my-bert", [0, 1])


@pytest.mark.parametrize("package", ["peftkit", "transformers", "peft"])
def test_another_minor_version_is_another_entry_labeled_by_it(tmp_path: Path, package: str) -> None:
    put(tmp_path, "a", using(**{package: "0.8.1"}), seed=0)
    put(tmp_path, "b", using(**{package: "0.9.1"}), seed=1)
    assert {row.settings: row.seeds for row in board_entries(collect([tmp_path]))} == {
        f"versions.{package}=0.8": [0], f"versions.{package}=0.9": [1]
    }  # fmt: skip


def test_another_patch_version_is_noted_and_no_entry_of_its_own(tmp_path: Path) -> None:
    put(tmp_path, "a", using(peft="0.21.0", torch="2.12.0"), seed=0)
    put(tmp_path, "b", using(peft="0.21.1", torch="2.13.0"), seed=1)
    results = collect([tmp_path])
    assert [row.seeds for row in board_entries(results)] == [[0, 1]]
    (note,) = version_notes(results)
    assert "peft (0.21.0, 0.21.1), torch (2.12.0, 2.13.0)" in note


def test_versions_that_differ_between_entries_only_need_no_note(tmp_path: Path) -> None:
    put(tmp_path, "a", using(torch="2.12.0"), method="lora")
    put(tmp_path, "b", using(torch="2.13.0"), method="ia3")
    assert version_notes(collect([tmp_path])) == []


def test_a_folder_given_twice_is_read_once(tmp_path: Path) -> None:
    put(tmp_path / "outputs", "a")
    (tmp_path / "link").symlink_to(tmp_path / "outputs")
    assert len(collect([tmp_path / "outputs", tmp_path / "outputs" / "a", tmp_path / "link"])) == 1


def test_a_run_that_was_sent_along_counts_once(tmp_path: Path) -> None:
    put(tmp_path / "mine", "a")
    shutil.copytree(tmp_path / "mine", tmp_path / "theirs")
    assert [result.problem is None for result in read(tmp_path / "mine", tmp_path / "theirs")] == [True, False]


def test_trials_are_no_results(tmp_path: Path) -> None:
    put(tmp_path, "trial-0", {"run/config/trial": True}, value=0.9)
    put(tmp_path, "failed", {"run/config/trial": True}, status="failed", reason="out of memory")
    put(tmp_path, "seed-0", {"run/config/trial": False, "search": {"trials": [TRIAL], "chosen": 1}})
    (result,) = collect([tmp_path])
    assert isinstance(result, BoardRun) and result.search == {"trials": [TRIAL], "chosen": 1}


def test_a_run_of_before_there_were_searches_stands_with_one_that_searched_nothing(tmp_path: Path) -> None:
    put(tmp_path, "old", seed=0)
    later = {
        "run/config/search": {"lr_multipliers": None, "samples": 500},
        "run/config/trial": False,
        "run/config/task/new": None,
    }
    put(tmp_path, "new", later, seed=1)
    assert [row.seeds for row in board_entries(collect([tmp_path]))] == [[0, 1]]


def test_a_method_called_as_a_folder_of_a_run_is_read(tmp_path: Path) -> None:
    put(tmp_path / "glue" / "rte" / "bert" / "adapter", "seed-0")
    run = put(tmp_path / "glue" / "rte" / "bert" / "model", "seed-1", seed=1)
    shutil.copytree(run, run / "checkpoints" / "old")  # a leftover within a run is none
    assert sorted(result.folder.name for result in read(tmp_path)) == ["seed-0", "seed-1"]


def test_a_result_carries_what_its_details_are_shown_from(tmp_path: Path) -> None:
    audit = {"truncated": {"train": 3}}
    put(tmp_path, "a", using() | {"run/overrides": ["task=rte", "seed=0"], "audit/truncated": {"train": 3},
                                  "gates": {"reload_difference": 0.0}, "merge": None, "forgetting": [1]})  # fmt: skip
    (result,) = read(tmp_path)
    assert result.overrides == ["task=rte", "seed=0"] and result.versions["peft"] == "0.21.0"
    assert result.audit["truncated"] == audit["truncated"] and result.gates == {"reload_difference": 0.0}
    assert result.merge is None and result.forgetting is None  # what is no dict tells nothing


def test_a_foreign_file_of_another_shape_is_named_and_hides_nothing(tmp_path: Path) -> None:
    put(tmp_path, "good")
    put(tmp_path, "bad", {"audit/sources/data": ["glue"]})
    found = collect([tmp_path])
    assert [type(result) for result in found] == [UnreadableRun, BoardRun]


def test_the_job_shows_the_results_of_others_beside_ones_own(tmp_path: Path) -> None:
    put(tmp_path / "outputs", "a", using(torch="2.12.0"), seed=0)
    put(tmp_path / "theirs", "b", using(torch="2.13.0"), seed=1)
    words = ["job=leaderboard", f"out={tmp_path}/outputs", f"results=[{tmp_path}/theirs]"]
    assert check(words) == []
    commands.run(words)
    (line,) = csv.DictReader((tmp_path / "outputs" / "leaderboard" / "leaderboard.csv").open(encoding="utf-8"))
    assert line["seeds"] == "0 1"


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    (sentence,) = check(["job=leaderboard", f"results=[{tmp_path}]"])
    assert f"results={tmp_path} contains no result.json" in sentence
    assert check(["task=mrpc", f"results=[{tmp_path}]"]) == [
        "results= is not for job=finetune, only for job=leaderboard; drop it"
    ]


def searched(rates: list[float], chosen: float) -> dict[str, Any]:
    return {
        "run/config/search": {"lr_multipliers": [0.3, 1, 3], "samples": 50},
        "run/config/train/learning_rate": chosen,
        "search": {"trials": [{"learning_rate": rate, "score": 0.5} for rate in rates], "chosen": chosen},
    }


def test_the_rate_that_a_search_found_is_no_setting_but_the_rates_it_tried_are(tmp_path: Path) -> None:
    put(tmp_path, "a", searched([3e-4, 1e-3, 3e-3], 1e-3), seed=0, task="rte")
    put(tmp_path, "b", searched([3e-4, 1e-3, 3e-3], 3e-3), seed=1, task="rte")
    put(tmp_path, "c", searched([3e-3, 1e-2, 3e-2], 3e-3), seed=2, task="rte")
    assert sorted(row.seeds for row in board_entries(collect([tmp_path]))) == [[0, 1], [2]]


@pytest.mark.parametrize("curve", ["x", [{"score": 1}], [{"epoch": 0, "score": 1}], [{"epoch": 1, "score": "?"}]])
def test_a_search_that_is_none_breaks_its_own_result_alone(tmp_path: Path, curve: Any) -> None:
    put(tmp_path, "good")
    put(tmp_path, "bad", {"search": {"trials": [], "curve": curve}}, seed=1)
    results = collect([tmp_path])
    assert [type(result) for result in sorted(results, key=lambda r: r.folder)] == [UnreadableRun, BoardRun]
    assert len(board_entries(results)) == 1
