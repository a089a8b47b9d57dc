"""Runs with domains: scores by domain, objectives on every head, resumption, and all domains left out in turn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import commands
from helpers.interruption import broken_off
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score

from peftkit.leaderboard.board import Board
from peftkit.leaderboard.domains import domain_cells
from peftkit.pipeline.report import make_report

Overrides = Callable[..., list[str]]
SHIFTED = ("task=mrpc", "task.shift=[covariate,label]", "task.domain=domain", "task.max_eval_samples=120")
TAGS = "".join(
    json.dumps({"tokens": ["a", "b", "c"][: 1 + n % 3], "tags": ["X", "Y", "X"][: 1 + n % 3], "genre": "pqr"[n % 3]})
    + "\n"
    for n in range(48)
)


def finetune(*overrides: str) -> tuple[Path, dict[str, Any]]:
    (folder,) = commands.finetune(*overrides)
    return folder, json.loads((folder / "result.json").read_text())


def test_scores_by_domain_are_those_of_the_predictions(tiny: Overrides) -> None:
    folder, result = finetune(*tiny("bert", *SHIFTED, "task.max_eval_samples=100", "task.metrics=[accuracy,macro_f1]"))
    found, rows = result["domains"], pq.read_table(folder / "predictions.parquet").to_pandas()
    accuracy = {name: accuracy_score(each.label, each.prediction) for name, each in rows.groupby("domain")}
    macro = {
        name: f1_score(each.label, each.prediction, average="macro", labels=[0, 1], zero_division=0)
        for name, each in rows.groupby("domain")
    }
    assert {name: each["scores"]["accuracy"] for name, each in found["scores"].items()} == pytest.approx(accuracy)
    assert {name: each["scores"]["macro_f1"] for name, each in found["scores"].items()} == pytest.approx(macro)
    assert {name: each["examples"] for name, each in found["scores"].items()} == rows.domain.value_counts().to_dict()
    assert found["worst"]["accuracy"]["value"] == pytest.approx(min(accuracy.values()))
    assert accuracy[found["worst"]["accuracy"]["domain"]] == pytest.approx(min(accuracy.values()))
    assert found["average"] == pytest.approx(
        {"accuracy": np.mean([*accuracy.values()]), "macro_f1": np.mean([*macro.values()])}
    )
    assert len(accuracy) == 4 and "Domains" in [each.title for each in make_report(folder).sections]
    (line,) = domain_cells((board := Board.read([folder])).entries, board.entries[0].board)
    assert line["average"] == f"{50 * np.mean([*accuracy.values()]) + 50 * np.mean([*macro.values()]):.1f}"


@pytest.mark.parametrize(
    ("model", "method", "objective"),
    [
        ("bert", "lora", "adversarial"), ("bert", "full", "confusion"),
        pytest.param("gpt2", "prefix", "adversarial", marks=pytest.mark.slow),
        *(
            pytest.param(model, method, objective, marks=pytest.mark.slow)
            for model in ("bert", "gpt2", "t5_encoder") for method in ("lora", "full", "prompt", "adapter", "qlora", "gradual")
            for objective in ("adversarial", "confusion", "group_dro")
        ),
    ],
)  # fmt: skip
def test_an_objective_trains_and_ships_nothing_of_its_own(
    tiny: Overrides, model: str, method: str, objective: str
) -> None:
    chosen = f"method={method}", "domains.leave_out=forum", f"domains.objective={objective}"
    run = [
        each.replace("model=t5", f"model={model}") for each in tiny(model.removesuffix("_encoder"), *SHIFTED, *chosen)
    ]
    folder, result = finetune(*run)
    assert result["meta"]["status"] == "finished" and result["gates"]["reload_difference"] == 0
    assert {*result["domains"]["scores"]} == {"forum"}
    assert {*result["domains"]["others"]["scores"]} == {"reviews", "letters", "reports"}
    weights = [name for file in folder.rglob("*.safetensors") for name in load_file(file)]
    assert weights and not [name for name in weights if "domain" in name]
    if objective != "group_dro":
        found = result["domains"]["classifier"]
        assert 0 <= found["accuracy"] <= 1 and 0 <= found["probe_accuracy"] <= 1 and found["examples"] > 40
        others = result["domains"]["others"]["scores"].values()
        assert found["chance"] == pytest.approx(max(each["examples"] for each in others) / found["examples"])
    else:
        assert sum(result["domains"]["group_weights"].values()) == pytest.approx(1)


@pytest.mark.parametrize("model", ["bert", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_tags_have_domains_and_objectives(tiny: Overrides, tmp_path: Path, model: str) -> None:
    (tmp_path / "tags.jsonl").write_text(TAGS)
    task = (
        "task=token_classification", f"task.dataset={tmp_path}/tags.jsonl", "task.domain=genre",
        "task.metrics=[token_accuracy]", "domains.target=q", "domains.target_labels=3", "domains.objective=adversarial",
        "task.max_train_samples=null",
    )  # fmt: skip
    folder, result = finetune(*tiny(model, *task))
    rows = pq.read_table(folder / "predictions.parquet").to_pandas()
    right = np.concatenate([np.array(a) == np.array(b) for a, b in zip(rows.label, rows.prediction, strict=True)])
    assert {*rows.domain} == {"q"} and result["domains"]["average"]["token_accuracy"] == pytest.approx(right.mean())
    assert result["audit"]["rows"]["unlabeled_target"] > 5 and result["domains"]["classifier"]["examples"] > 2


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["adversarial", "confusion", "group_dro"])
def test_a_killed_run_resumes_to_the_bit(tiny: Overrides, objective: str) -> None:
    run = tiny("bert", *SHIFTED, f"domains.objective={objective}", "train.num_train_epochs=3", "train.bf16=false")
    folder, whole = finetune(*run)
    expected = (
        pq.read_table(folder / "predictions.parquet"),
        [load_file(each) for each in folder.rglob("*.safetensors")],
    )
    with broken_off(step=6):  # of 9
        commands.finetune(*run, "force=true")
    assert (folder / "checkpoints").is_dir()
    _, resumed = finetune(*run)
    assert resumed["domains"] == whole["domains"]
    assert pq.read_table(folder / "predictions.parquet").equals(expected[0])
    for found, weights in zip([load_file(each) for each in folder.rglob("*.safetensors")], expected[1], strict=True):
        assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.slow
def test_each_domain_is_left_out_in_turn_and_the_predictions_are_pooled(tiny: Overrides, tmp_path: Path) -> None:
    folder, result = finetune(*tiny("bert", *SHIFTED, "domains.leave_out=all"))
    rows = pq.read_table(folder / "predictions.parquet").to_pandas()
    assert len(rows) == 200 and rows.id.is_unique and not (folder / "adapter").exists()
    assert result["scores"]["accuracy"]["value"] == pytest.approx(accuracy_score(rows.label, rows.prediction))
    parts = {each["folder"]: each["scores"]["accuracy"] for each in result["cross_validation"]["folds"]}
    assert len(parts) == 4 and result["domains"]["average"]["accuracy"] == pytest.approx(np.mean([*parts.values()]))
    board = Board.read([tmp_path / "outputs"])
    assert len([entry for entry in board.entries if not entry.is_baseline]) == 5
    lines = domain_cells(board.entries, board.entries[0].board)
    assert "4 domains left out in turn" in lines[-1]["method"] or "4 domains left out in turn" in lines[-2]["method"]
    alone, of_run = (
        {line["average"] for line in lines if has_all == (line["domains"].count("(") == 4)} for has_all in (False, True)
    )
    assert len(of_run) == 1 and alone


@pytest.mark.slow
def test_a_finished_run_is_scored_by_domain(tiny: Overrides, tmp_path: Path) -> None:
    folder, _ = finetune(*tiny("bert", *SHIFTED, "task.domain=null"))
    commands.run(["job=evaluate", f"run={folder}", "task.domain=domain", "source=offline"])
    (file,) = folder.glob("evaluation-*.json")
    assert len(json.loads(file.read_text())["domains"]["scores"]) == 4
