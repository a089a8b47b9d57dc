"""Entries stop early where an independent computation of the rule says so, and the board states it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.recorded_runs import write_run
from helpers.synthetic_board import METHODS, make_run
from statsmodels.stats.multitest import multipletests

from peftkit.leaderboard.board import Board
from peftkit.leaderboard.rendering import problems_of, seeds_text
from peftkit.leaderboard.sequential import FIRST_LOOK, LEVEL, settled, settled_runs
from peftkit.leaderboard.stats import REFERENCE

REASON = "stopped after 3 of 5 seeds: significantly below the best"


def test_the_rule_is_holm_at_its_level_against_the_best_and_the_reference(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = {"examples": random.normal(size=872), "labels": random.integers(0, 2, 872)}
    folders = [
        make_run(tmp_path, method, "sst2", seed, random, noise)
        for method in ("full", "lora", "adapter", "ia3", "p_tuning", "prompt", "linear_probe")
        for seed in range(FIRST_LOOK)
    ]
    board = Board.read(folders)
    tests = board.verdict().comparisons
    differs = multipletests([each.p for each in tests], LEVEL, method="holm")[0]
    pairs = [frozenset(board.entries[n].method for n in (each.first, each.second)) for each in tests]
    table = dict(zip(pairs, differs, strict=True))
    means = {entry.method: np.mean([*entry.by_seed.values()]) for entry in board.entries if not entry.is_baseline}
    anchors = {max(means, key=lambda method: means[method]), REFERENCE}
    expected = {m for m in means if m not in anchors and all(table[frozenset((m, a))] for a in anchors)}
    stopped = {*settled_runs(folders, FIRST_LOOK)}
    found = {entry.method for entry in board.entries if stopped & {run.folder for run in entry.runs}}
    assert found == expected
    assert {"prompt", "linear_probe"} <= found < {*METHODS}
    assert not settled_runs(folders, FIRST_LOOK + 1)  # a seed of each entry failed


@pytest.mark.parametrize(
    ("differing", "expected"),
    [
        ({(0, 1), (0, 2), (0, 3), (1, 2), (3, 1)}, [2, 3]),  # in either order
        ({(0, 2), (0, 3), (1, 2)}, [2]),  # 3 does not differ from the reference
        ({(1, 2), (1, 3)}, []),  # nor from the best
    ],
)
def test_the_best_and_the_reference_continue(differing: set[tuple[int, int]], expected: list[int]) -> None:
    assert settled([0, 1, 2, 3], [1], differing) == expected
    assert settled([], [], differing) == []


def test_a_board_states_why_an_entry_has_fewer_seeds(tmp_path: Path) -> None:
    for method, value in (("lora", 0.9), ("prompt", 0.5)):
        for seed in range(5):
            is_skipped = method == "prompt" and seed > 2
            status = {"status": "skipped", "reason": REASON} if is_skipped else {"value": value + seed / 1000}
            write_run(tmp_path, f"{method}-{seed}", method=method, seed=seed, **status)  # type: ignore[arg-type]
    board = Board.read([tmp_path])
    assert f"rte: prompt {REASON}." in board.verdict().notes
    assert [seeds_text(entry) for entry in board.entries if not entry.is_baseline] == ["5", "3 of 5"]
    assert problems_of(board.runs) == {}
