"""A verdict separates significantly different entries, ties the others, and notes what was not tested."""

from __future__ import annotations

import re
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.recorded_runs import write_run
from statsmodels.stats.multitest import multipletests

from peftkit.leaderboard.letters import compact_letters
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.sentences import summary_sentences
from peftkit.leaderboard.stats import board_entries
from peftkit.leaderboard.verdict import Verdict, compare_entries

SKILL = {"full": 0.9, "lora": 0.89, "prompt": 0.6}


def made(
    root: Path, seeds: int = 3, tasks: tuple[str, ...] = ("rte", "sst2"), examples: int = 400, predictions: bool = True
) -> tuple[list[BoardEntry], Verdict]:
    """Write methods of known skill with their predictions, and return rows and verdict."""
    random = np.random.default_rng(0)
    for task in tasks:
        labels, luck = random.integers(0, 2, examples), random.random(examples)
        for method, skill in SKILL.items():
            for seed in range(seeds):
                said = np.where(0.8 * luck + 0.2 * random.random(examples) < skill, labels, 1 - labels)
                name, value = f"{task}-{method}-{seed}", float(np.mean(said == labels))
                write_run(root, name, method=method, task=task, seed=seed, value=value)
                if predictions:
                    columns = {"id": np.arange(examples), "split": ["validation"] * examples, "label": labels}
                    pq.write_table(pa.table(columns | {"prediction": said}), root / name / "predictions.parquet")
    return judged(root)


def judged(root: Path) -> tuple[list[BoardEntry], Verdict]:
    results = collect([root])
    rows = board_entries(results)
    return rows, compare_entries(rows, results)


def test_a_worse_method_differs_and_equals_are_tied(tmp_path: Path) -> None:
    rows, verdict = made(tmp_path)
    groups = {(row.task, row.method): group for row, group in zip(rows, verdict.groups, strict=True)}
    for task in ("rte", "sst2"):
        assert (groups[task, "full"], groups[task, "lora"], groups[task, "prompt"]) == ("a", "a", "b")
    assert set(verdict.detectable) == {(rows[0].board, "rte"), (rows[0].board, "sst2")}
    assert verdict.notes == []


def test_a_comparison_is_of_the_shown_means_and_corrected_over_the_board(tmp_path: Path) -> None:
    rows, verdict = made(tmp_path)
    for c in verdict.comparisons:
        assert c.difference == pytest.approx((rows[c.first].score or 0) - (rows[c.second].score or 0))
        assert c.low < c.difference < c.high
        assert (c.test, c.examples, c.seeds) == ("seeds, examples", 400, 3)
    assert len(verdict.comparisons) == 6
    expected = multipletests([c.p for c in verdict.comparisons], method="holm")
    assert [c.p_holm for c in verdict.comparisons] == pytest.approx(expected[1])
    assert [c.differs for c in verdict.comparisons] == expected[0].tolist()


def test_tasks_are_won_tied_and_lost(tmp_path: Path) -> None:
    rows, verdict = made(tmp_path)
    title = rows[0].board
    assert verdict.records[title, "full", "prompt"] == (2, 0, 0)
    assert verdict.records[title, "prompt", "full"] == (0, 0, 2)
    assert verdict.records[title, "lora", "full"] == (0, 2, 0)


def test_sentences_name_top_and_worse(tmp_path: Path) -> None:
    rows, verdict = made(tmp_path)
    told = summary_sentences(rows, verdict, rows[0].board)
    assert list(told) == ["sst2", "rte"]
    for text in told.values():
        assert "; significantly worse: prompt. Among these, " in text
        assert re.search(r"Minimum detectable difference \(80 % power\): [0-9.]+ points\.$", text)


def test_one_seed_is_tested_over_examples_with_a_note(tmp_path: Path) -> None:
    _, verdict = made(tmp_path, seeds=1)
    assert {c.test for c in verdict.comparisons} == {"McNemar"}
    assert (
        verdict.notes[0] == "sst2: one seed per entry, so these tests generalize to other examples, not to other seeds."
    )


def test_without_predictions_seeds_alone_are_tested_with_a_note(tmp_path: Path) -> None:
    _, verdict = made(tmp_path, predictions=False)
    assert {(c.test, c.examples) for c in verdict.comparisons} == {("seeds only", 0)}
    assert verdict.notes[0] == "sst2: no predictions, so tested over seeds only: full, lora and prompt."


def test_one_seed_without_predictions_claims_nothing(tmp_path: Path) -> None:
    rows, verdict = made(tmp_path, seeds=1, predictions=False)
    assert (verdict.comparisons, verdict.groups, verdict.detectable) == ([], [""] * len(rows), {})
    assert summary_sentences(rows, verdict, rows[0].board) == {}


def test_missing_seeds_are_noted(tmp_path: Path) -> None:
    made(tmp_path, tasks=("rte",))
    (tmp_path / "rte-lora-2" / "result.json").unlink()
    write_run(tmp_path, "late", method="full", task="rte", seed=7, status="failed", reason="out of memory")
    rows, verdict = judged(tmp_path)
    assert [(row.method, len(row.seeds), row.planned) for row in rows] == [
        ("full", 3, 4),
        ("lora", 2, 3),
        ("prompt", 3, 3),
    ]
    assert verdict.notes[:2] == ["rte: full has 3 of 4 seeds.", "rte: lora has 2 of 3 seeds."]


def test_a_single_seed_among_several_is_tested_with_their_spread(tmp_path: Path) -> None:
    made(tmp_path, tasks=("rte", "sst2", "cola"))
    for seed in (1, 2):
        (tmp_path / f"rte-prompt-{seed}" / "result.json").unlink()
    rows, verdict = judged(tmp_path)
    assert {c.test for c in verdict.comparisons} == {"seeds, examples"}
    assert "rte: one seed: prompt; the spread of the other entries is used instead." in verdict.notes
    place = [(row.task, row.method) for row in rows].index(("rte", "prompt"))
    (comparison, *_) = [c for c in verdict.comparisons if c.second == place]
    assert (verdict.groups[place], comparison.seeds) == ("b", 1)
    assert 0.25 < comparison.low < comparison.high < 0.45


def test_a_result_that_cannot_be_read_is_noted(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "result.json").write_text("{")
    assert judged(tmp_path)[1].notes == ["1 results cannot be read and are in no table."]


def test_a_board_on_which_every_run_failed_has_a_note(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, f"{seed}", seed=seed, status="failed", reason="out of memory")
    rows, verdict = judged(tmp_path)
    assert (verdict.comparisons, verdict.groups, verdict.notes) == ([], [""], ["rte: lora has 0 of 2 seeds."])
    assert summary_sentences(rows, verdict, rows[0].board) == {}


def test_nothing_to_judge_is_an_empty_verdict() -> None:
    assert compare_entries([], []) == Verdict([], [], {}, {}, [])


@pytest.mark.parametrize("seed", range(5))
def test_letters_are_shared_by_those_and_only_those_that_do_not_differ(seed: int) -> None:
    random = np.random.default_rng(seed)
    pairs = [pair for pair in combinations(range(9), 2) if random.random() < 0.4]
    found = compact_letters(9, pairs)
    assert all((not set(found[a]) & set(found[b])) == ((a, b) in pairs) for a, b in combinations(range(9), 2))
    assert "a" in found[0]


def test_equal_entries_share_one_letter() -> None:
    assert compact_letters(3, []) == ["a", "a", "a"]
    assert compact_letters(3, [(0, 1), (0, 2), (1, 2)]) == ["a", "b", "c"]


def test_thousands_of_entries_are_tested_in_seconds(tmp_path: Path) -> None:
    made(tmp_path, tasks=("rte",), examples=50)
    results = collect([tmp_path])
    rows = board_entries(results) * 1000
    start = time.process_time()
    verdict = compare_entries(rows, results)
    assert time.process_time() - start < 10
    assert "rte: the best 40 entries are tested in all pairs" in " ".join(verdict.notes)
    assert len(verdict.comparisons) == 40 * 39 // 2 + 60
