"""A claim is said to hold, to fail or to be open by what was measured, and says what it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_stats import write

from peftkit.leaderboard import Result, collect
from peftkit.leaderboard.claims import CLAIMS, FAILS, HOLDS, OPEN, Finding
from peftkit.leaderboard.stats import board
from peftkit.leaderboard.verdict import judge
from peftkit.schema.checks import CHOICES

EXAMPLES = 10_000


def run(root: Path, method: str, skill: float, task: str = "sst2", rows: int = 1000, costs: dict | None = None) -> None:
    """Write three seeds of a method that is right on a share of the examples."""
    labels = np.random.default_rng(1).integers(0, 2, EXAMPLES)
    luck = np.random.default_rng(2).random(EXAMPLES)
    for seed in range(3):
        again = np.random.default_rng([seed, len(method)]).random(EXAMPLES)
        said = np.where(0.8 * luck + 0.2 * again < skill, labels, 1 - labels)
        name = f"{task}-{method}-{rows}-{seed}"
        write(root, name, method=method, task=task, seed=seed, value=float(np.mean(said == labels)))
        file = root / name / "result.json"
        result = json.loads(file.read_text())
        result["audit"]["rows"] = {"train": rows, "validation": EXAMPLES}
        result["costs"] |= costs or {}
        file.write_text(json.dumps(result))
        columns = {"id": np.arange(EXAMPLES), "split": ["validation"] * EXAMPLES, "label": labels}
        pq.write_table(pa.table(columns | {"prediction": said}), root / name / "predictions.parquet")


def find(root: Path, claim: str) -> Finding:
    results = collect([root])
    rows = board(results)
    return CLAIMS[claim](rows, judge(rows, results), [r for r in results if isinstance(r, Result)])


def test_the_claims_are_those_that_may_be_typed() -> None:
    assert set(CHOICES["claim"]) == {*CLAIMS, None}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_without_its_runs_is_open_and_says_what_it_takes(tmp_path: Path, claim: str) -> None:
    run(tmp_path, "full", 0.8)
    finding = find(tmp_path, claim)
    assert finding.verdict == OPEN and finding.reason


@pytest.mark.parametrize(("lead", "verdict"), [(0.1, HOLDS), (-0.1, FAILS), (0.0, OPEN)])
def test_small_data_favours_adapters_only_where_they_lead_there(tmp_path: Path, lead: float, verdict: str) -> None:
    run(tmp_path, "full", 0.6, rows=100)
    run(tmp_path, "adapter", 0.6 + lead, rows=100)
    run(tmp_path, "full", 0.8, rows=1000)
    run(tmp_path, "adapter", 0.8, rows=1000)
    assert find(tmp_path, "small_data").verdict == verdict


@pytest.mark.parametrize(("loss", "verdict"), [(0.0, HOLDS), (0.1, FAILS)])
def test_a_4_bit_base_loses_little_or_much(tmp_path: Path, loss: float, verdict: str) -> None:
    for task in ("sst2", "rte", "cola"):
        run(tmp_path, "lora", 0.8, task)
        run(tmp_path, "qlora", 0.8 - loss, task)
    assert find(tmp_path, "quantization").verdict == verdict


@pytest.mark.parametrize(("merged", "verdict"), [(10.0, HOLDS), (13.0, FAILS)])
def test_merged_lora_is_held_against_full_on_the_same_machine(tmp_path: Path, merged: float, verdict: str) -> None:
    run(tmp_path, "full", 0.8, costs={"latency_ms": 10.0})
    run(tmp_path, "lora", 0.8, costs={"latency_ms": 14.0, "merged_latency_ms": merged})
    finding = find(tmp_path, "lora_merge")
    assert finding.verdict == verdict
    assert "1.400 times" in finding.lines[0]


def test_methods_that_change_places_between_tasks_show_that_the_task_decides(tmp_path: Path) -> None:
    for task, ahead, behind in (("sst2", "lora", "prefix"), ("rte", "prefix", "lora")):
        run(tmp_path, ahead, 0.9, task)
        run(tmp_path, behind, 0.7, task)
    finding = find(tmp_path, "by_task")
    assert finding.verdict == HOLDS
    assert "prefix beats lora on rte" in finding.reason
