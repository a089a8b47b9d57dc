"""Claims are supported, rejected or inconclusive by the runs of a board, with the runs that are missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.recorded_runs import write_run

from peftkit.config.checks.values import CHOICES
from peftkit.leaderboard.claims import CLAIMS, INCONCLUSIVE, REJECTED, SUPPORTED, Finding, judge_claim
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.stats import board_entries
from peftkit.leaderboard.verdict import compare_entries

EXAMPLES = 10_000


def run(
    root: Path, method: str, skill: float, task: str = "sst2", rows: int = 1000, costs: dict | None = None,
    model: str = "bert",
) -> None:  # fmt: skip
    """Write three seeds of a method that is right on a share of the examples."""
    labels = np.random.default_rng(1).integers(0, 2, EXAMPLES)
    luck = np.random.default_rng(2).random(EXAMPLES)
    for seed in range(3):
        again = np.random.default_rng([seed, len(method)]).random(EXAMPLES)
        said = np.where(0.8 * luck + 0.2 * again < skill, labels, 1 - labels)
        name = f"{task}-{method}-{rows}-{model}-{seed}"
        value = float(np.mean(said == labels))
        write_run(root, name, method=method, task=task, seed=seed, value=value, model=model)
        file = root / name / "result.json"
        result = json.loads(file.read_text())
        result["audit"]["rows"] = {"train": rows, "validation": EXAMPLES}
        result["costs"] |= costs or {}
        file.write_text(json.dumps(result))
        columns = {"id": np.arange(EXAMPLES), "split": ["validation"] * EXAMPLES, "label": labels}
        pq.write_table(pa.table(columns | {"prediction": said}), root / name / "predictions.parquet")


def find(root: Path, claim: str) -> Finding:
    results = collect([root])
    rows = board_entries(results)
    return judge_claim(claim, rows, compare_entries(rows, results))


def test_the_claims_are_those_that_may_be_typed() -> None:
    assert set(CHOICES["claim"]) == {*CLAIMS, None}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_without_its_runs_is_inconclusive_and_names_what_is_missing(tmp_path: Path, claim: str) -> None:
    run(tmp_path, "full", 0.8)
    finding = find(tmp_path, claim)
    assert finding.verdict == INCONCLUSIVE and finding.reason


@pytest.mark.parametrize(("lead", "verdict"), [(0.1, SUPPORTED), (-0.1, REJECTED), (0.0, INCONCLUSIVE)])
def test_small_data_favours_adapters_only_where_they_lead_there(tmp_path: Path, lead: float, verdict: str) -> None:
    run(tmp_path, "full", 0.6, rows=100)
    run(tmp_path, "adapter", 0.6 + lead, rows=100)
    run(tmp_path, "full", 0.8, rows=1000)
    run(tmp_path, "adapter", 0.8, rows=1000)
    assert find(tmp_path, "small_data").verdict == verdict


def test_small_data_names_missing_runs_and_is_decided_with_the_last(tmp_path: Path) -> None:
    run(tmp_path, "full", 0.6, rows=100)
    run(tmp_path, "lora", 0.7, rows=100)
    assert find(tmp_path, "small_data").reason.endswith("; sst2, bert has full and lora at 100")
    run(tmp_path, "lora", 0.8, rows=4000)
    reason = find(tmp_path, "small_data").reason
    assert reason.endswith("; sst2, bert has full and lora at 100; lora at 4,000 without full")
    run(tmp_path, "full", 0.8, rows=4000)
    assert find(tmp_path, "small_data").verdict == SUPPORTED


@pytest.mark.parametrize(("loss", "verdict"), [(0.0, SUPPORTED), (0.1, REJECTED)])
def test_a_4_bit_base_loses_little_or_much(tmp_path: Path, loss: float, verdict: str) -> None:
    for task in ("sst2", "rte", "cola"):
        run(tmp_path, "lora", 0.8, task)
        run(tmp_path, "qlora", 0.8 - loss, task)
    assert find(tmp_path, "quantization").verdict == verdict


@pytest.mark.parametrize(("merged", "verdict"), [(10.0, SUPPORTED), (13.0, REJECTED)])
def test_merged_lora_is_compared_with_full_on_the_same_machine(tmp_path: Path, merged: float, verdict: str) -> None:
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
    assert finding.verdict == SUPPORTED
    assert "prefix beats lora on rte" in finding.reason


def test_a_method_on_two_models_is_no_change_of_places(tmp_path: Path) -> None:
    for model, ahead in (("bert", "sst2"), ("roberta", "rte")):
        for task in ("sst2", "rte"):
            run(tmp_path, "lora", 0.9 if task == ahead else 0.7, task, model=model)
            run(tmp_path, "full", 0.95 if task == ahead else 0.75, task, model=model)
    assert find(tmp_path, "by_task").verdict == INCONCLUSIVE


def test_two_models_both_count_for_small_data(tmp_path: Path) -> None:
    for model, lead in (("bert", 0.1), ("roberta", -0.1)):
        for rows, its in ((100, lead), (1000, 0.0)):
            run(tmp_path, "full", 0.7, rows=rows, model=model)
            run(tmp_path, "adapter", 0.7 + its, rows=rows, model=model)
    finding = find(tmp_path, "small_data")
    assert finding.verdict == INCONCLUSIVE and len(finding.lines) == 4


def test_several_methods_on_one_task_make_no_narrower_interval_than_one(tmp_path: Path) -> None:
    for rows in (100, 1000):
        run(tmp_path, "full", 0.7, rows=rows)
        run(tmp_path, "lora", 0.7, rows=rows)
    one = find(tmp_path, "small_data").reason
    for rows in (100, 1000):
        for method in ("adapter", "adapter_pfeiffer", "adapter_parallel"):
            run(tmp_path, method, 0.7, rows=rows)
    assert width(find(tmp_path, "small_data").reason) > 0.8 * width(one)


def width(reason: str) -> float:
    low, high = reason.partition("95 %: ")[2].partition(")")[0].split(" to ")
    return float(high) - float(low)


def test_a_copy_of_a_run_is_no_further_seed(tmp_path: Path) -> None:
    run(tmp_path / "a", "full", 0.8, costs={"latency_ms": 10.0})
    run(tmp_path / "a", "lora", 0.8, costs={"latency_ms": 11.0, "merged_latency_ms": 10.0})
    once = find(tmp_path, "lora_merge")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert find(tmp_path, "lora_merge") == once


def test_two_settings_of_a_method_leave_a_claim_inconclusive(tmp_path: Path) -> None:
    run(tmp_path, "full", 0.8)
    write_run(
        tmp_path, "other", method="full", task="sst2", value=0.7, rate=7, rows={"train": 1000, "validation": 10_000}
    )
    finding = find(tmp_path, "quantization")
    assert finding.verdict == INCONCLUSIVE and "2 settings of full" in finding.reason
