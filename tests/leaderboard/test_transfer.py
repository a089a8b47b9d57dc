"""A task that was trained with others is compared with itself alone, in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.recorded_runs import write_run

from peftkit.leaderboard.board import Board
from peftkit.leaderboard.sentences import headlines
from peftkit.leaderboard.transfer import pairs_of

TASKS = [{"name": "cola", "suite": "glue"}, {"name": "rte", "suite": "glue"}]
DEFAULT = {"adapter": "shared", "mixing": "proportional", "batches": "homogeneous", "normalize_loss": True}


def board_of(root: Path, together: float, alone: float, **settings: object) -> Board:
    for seed in range(3):
        write_run(root, f"alone/{seed}", seed=seed, value=alone + 0.001 * seed)
        write_run(root, f"all/{seed}/rte", seed=seed, value=together + 0.001 * seed)
        file = root / f"all/{seed}/rte/result.json"
        record = json.loads(file.read_text())
        record["run"]["config"] |= {"tasks": TASKS, "multitask": {**DEFAULT, **settings}}
        file.write_text(json.dumps(record))
        whole = {**record, "tasks": {"rte": {"folder": "rte"}}}
        (root / f"all/{seed}/result.json").write_text(json.dumps(whole))
    return Board.read([root])


@pytest.mark.parametrize(
    ("together", "text"),
    [
        (
            0.6,
            "Negative transfer: lora tasks=cola,rte against lora trained on rte alone, -10.0 points (95 % interval -1",
        ),
        (
            0.8,
            "Positive transfer: lora tasks=cola,rte against lora trained on rte alone, +10.0 points (95 % interval +",
        ),
        (0.7001, "No significant transfer: lora tasks=cola,rte against lora trained on rte alone, +0.0 points"),
    ],
)
def test_transfer_is_named_with_its_interval(tmp_path: Path, together: float, text: str) -> None:
    board = board_of(tmp_path, together, 0.7)
    verdict = board.verdict()
    assert len(board.runs) == 6  # the whole runs are no entries
    ((_, line),) = headlines(board.entries, verdict.groups, verdict.detectable, verdict.comparisons)[
        "glue, data from nyu-mll/glue"
    ]
    assert text in line
    ((first, second, test),) = pairs_of(board.entries, verdict.comparisons)
    assert first.all_settings["tasks"] == "cola,rte" and "tasks" not in second.all_settings and test is not None


def test_settings_of_the_mixture_distinguish_entries_where_they_are_not_the_defaults(tmp_path: Path) -> None:
    board = board_of(tmp_path, 0.7, 0.7, mixing="equal")
    names = {entry.name for entry in board.entries if entry.method == "lora"}
    assert names == {"lora", "lora multitask.mixing=equal tasks=cola,rte"}
