"""Results of version 0.1 compare with new ones of equal settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftkit.config.suggestions import RENAMED
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardRun
from peftkit.leaderboard.settings import migrate_v01
from peftkit.leaderboard.stats import board_entries

OLD = json.loads((Path(__file__).parent / "result_0.1.json").read_text(encoding="utf-8"))  # LoRA on MRPC, seed 0


def put(folder: Path, record: dict) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(record), encoding="utf-8")


def renewed(seed: int) -> dict:
    """Return the run as version 0.2 records it, written out by hand."""
    text = json.dumps(OLD)
    for old, new in (("max_train_rows", "max_train_samples"), ("max_eval_rows", "max_eval_samples"),
                     ('"factors"', '"lr_multipliers"'), ('"embedded"', '"offline"')):  # fmt: skip
        text = text.replace(old, new)
    record = {"schema": 2, **json.loads(text)}
    config = record["run"]["config"]
    config["search"] = {"lr_multipliers": config["search"]["lr_multipliers"], "samples": config["search"].pop("rows")}
    config["task"] |= {
        "stride": None,
        "no_answer": False,
        "whole_words": False,
        "packing": False,
        "join_documents": False,
    }
    config["extend"] = config["extend"] | {"init": "pieces", "pad_to_multiple_of": None}
    config["distill"] = {"teacher": None, "temperature": 2.0, "alpha": 0.5}
    config["method"] |= {"paper": "Hu et al. 2022", "traits": {"mergeable": True}}
    config["method"]["refuses"] = {"retrieval": "another message"}
    record["meta"]["seed"] = seed
    return record


def test_a_run_of_0_1_is_a_seed_of_the_entry_of_new_runs(tmp_path: Path) -> None:
    put(tmp_path / "old", OLD)
    put(tmp_path / "new", renewed(seed=1))
    (entry,) = board_entries(collect([tmp_path]))
    assert (entry.seeds, entry.trials) == ([0, 1], 3)


def test_settings_and_command_of_0_1_have_the_names_of_today(tmp_path: Path) -> None:
    put(tmp_path / "old", OLD)
    (run,) = collect([tmp_path])
    assert isinstance(run, BoardRun)
    assert run.settings["task.max_train_samples"] == "1000"
    assert run.settings["search.lr_multipliers"] == "[0.3, 1, 3]"
    assert run.audit["sources"]["model"]["kind"] == "offline"
    assert "source=offline" in run.overrides and "task.max_train_samples=1000" in run.overrides


def test_a_new_setting_still_makes_an_entry_of_its_own(tmp_path: Path) -> None:
    put(tmp_path / "old", OLD)
    record = renewed(seed=1)
    record["run"]["config"]["task"]["packing"] = True
    put(tmp_path / "new", record)
    assert sorted(entry.settings for entry in board_entries(collect([tmp_path]))) == ["packing=false", "packing=true"]


@pytest.mark.parametrize("key", [key for key in RENAMED if "=" not in key])
def test_every_renamed_key_is_mapped_in_config_and_command(key: str) -> None:
    (section, old), new = key.split("."), RENAMED[key].split(".")[1]
    record = {
        "run": {"config": {"task": {}, section: {old: 7}}, "overrides": [f"{section}.{old}=7", "seed=1"]},
        "audit": {"sources": {}},
    }
    run = migrate_v01(record)["run"]
    assert run["config"][section][new] == 7 and old not in run["config"][section]
    assert run["overrides"] == [f"{section}.{new}=7", "seed=1"]


def test_a_result_with_a_schema_keeps_its_names() -> None:
    record = renewed(seed=0)
    assert migrate_v01(json.loads(json.dumps(record))) == record
