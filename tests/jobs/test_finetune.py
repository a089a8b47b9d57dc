"""A run writes one folder with its results, its artifact and everything that reproduces it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import commands
from helpers.commands import check
from helpers.interruption import broken_off

import peftkit
from peftkit.cli.files import options_of
from peftkit.config import RunConfig, UserError
from peftkit.jobs.plan_table import show_plans
from peftkit.results import run_folder
from peftkit.training import checkpoints

# the long tests try all
FAST = {
    "bert": ("full", "adapter"), "gpt2": ("lora", "qlora"), "t5": ("ia3", "prefix"),
}  # fmt: skip
UNTRAINED = ("zero_shot", "few_shot", "steering")
METHODS = sorted(options_of("method").keys() - {"peft"})
Overrides = Callable[..., list[str]]


def finetune(overrides: list[str]) -> tuple[Path, dict]:
    (folder,) = commands.finetune(*overrides)
    return folder, json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("task", ["mrpc", pytest.param("stsb", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("method", "model"),
    [
        pytest.param(method, model, marks=() if method in FAST[model] else pytest.mark.slow)
        for method in METHODS
        for model in FAST
    ],
)
def test_every_cell_runs_or_refuses_with_its_reason(tiny: Overrides, method: str, model: str, task: str) -> None:
    overrides = tiny(model, f"method={method}", f"task={task}", "task.max_train_samples=16")
    if refused := check(overrides):
        assert all("use method=" in sentence for sentence in refused)
        return
    folder, result = finetune(overrides)
    assert result["meta"]["status"] == "finished"
    assert all(np.isfinite(entry["value"]) for entry in result["scores"].values())
    again, _ = peftkit.load(folder)
    assert (result["costs"]["trainable_params"] > 0) == (method not in UNTRAINED)
    assert sum(w.numel() for w in again.parameters()) > result["costs"]["trainable_params"] // 2


@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("bert", "lora"),
        pytest.param("bert", "adapter", marks=pytest.mark.slow),
        ("bert", "full"),
        ("gpt2", "ia3"),
        ("t5", "prompt"),
    ],
)
def test_a_reloaded_run_predicts_what_it_predicted(tiny: Overrides, tmp_path: Path, model: str, method: str) -> None:
    folder, _ = finetune(tiny(model, f"method={method}", "task=sst2", "train.bf16=false"))
    predictions = pq.read_table(folder / "predictions.parquet").to_pylist()
    from peftkit.data.miniglue import miniglue

    texts = {row["idx"]: row["sentence"] for row in miniglue("sst2")["validation"]}
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"sentence": texts[row["id"]]}) + "\n" for row in predictions))
    commands.predict(folder, rows, f"output={tmp_path}/out.jsonl")
    again = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in again] == [["negative", "positive"][row["prediction"]] for row in predictions]
    np.testing.assert_allclose([row["scores"] for row in again], [row["scores"] for row in predictions], atol=1e-4)


def test_run_folder_holds_all_and_no_checkpoint_is_left(tiny: Overrides) -> None:
    folder, result = finetune(tiny("bert", "task=mnli"))
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "adapter", "config.yaml", "log.jsonl", "predictions.parquet", "report.html", "result.json"
    }  # fmt: skip
    assert set(result["scores"]) == {"accuracy_matched", "accuracy_mismatched"}
    assert result["audit"]["rows"]["train"] == 24
    assert result["audit"]["sources"]["data"]["substituted_for"] == "nyu-mll/glue"
    assert sum(result["audit"]["label_counts"]["train"].values()) == 24


def test_plain_peft_loads_the_adapter_with_its_head(tiny: Overrides, checkpoints: dict[str, Path]) -> None:
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

    folder, _ = finetune(tiny("bert", "task=sst2"))
    config = AutoConfig.from_pretrained(folder / "adapter" / "base")
    base = AutoModelForSequenceClassification.from_pretrained(checkpoints["bert"], config=config)
    model = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "adapter")
    ours, _ = peftkit.load(folder)
    batch = tokenizer(["the film is great ."], return_tensors="pt")
    assert torch.equal(model(**batch).logits, ours(**batch).logits)
    (answer,) = pipeline("text-classification", model=model, tokenizer=tokenizer)("the film is great .")
    assert answer["label"] in ("negative", "positive")


def test_a_finished_run_is_skipped_and_reported(tiny: Overrides, capsys: pytest.CaptureFixture[str]) -> None:
    folder, first = finetune(tiny("bert"))
    before = (folder / "result.json").stat().st_mtime_ns
    started: list[Path] = []
    commands.run(tiny("bert"), on_start=started.append)
    assert started == [folder]
    assert (folder / "result.json").stat().st_mtime_ns == before
    score = first["scores"]["accuracy"]["value"]
    assert f"finished already: {folder}, accuracy {score:.3f}, f1 " in capsys.readouterr().err


def test_the_same_seed_gives_the_same_scores_and_another_seed_another_folder(tiny: Overrides) -> None:
    folder, result = finetune(tiny("bert", "seed=1"))
    first = pq.read_table(folder / "predictions.parquet")
    again, _ = finetune(tiny("bert", "seed=1", "force=true"))
    run = result["run"]
    config = RunConfig.from_config(run["config"])
    kept, other = (
        run_folder.run_folder(replace(config, seed=seed), result["audit"]["sources"], run["setup"]) for seed in (1, 2)
    )
    assert again == folder == kept != other
    assert pq.read_table(again / "predictions.parquet").equals(first)


def test_a_killed_run_resumes_and_ends_as_an_unbroken_one(tiny: Overrides) -> None:
    overrides = tiny("bert", "train.num_train_epochs=3", "train.bf16=false")
    whole, _ = finetune([*overrides, "seed=5"])
    expected = pq.read_table(whole / "predictions.parquet")
    with broken_off(step=6):  # of 9
        commands.finetune(*overrides, "seed=5", "force=true")
    assert json.loads((whole / "result.json").read_text())["meta"]["status"] == "interrupted"
    assert list((whole / "checkpoints").glob("checkpoint-*"))
    (spent,) = (whole / "checkpoints").glob("*/callbacks.pt")
    states = torch.load(spent)
    states["ResourceTracker"] |= {"seconds": 1000.0, "peak_bytes": 10**15}
    torch.save(states, spent)
    checkpoints.write_manifest(spent.parent)
    with (whole / "log.jsonl").open("a") as log:
        log.write('{"step": 10000, "loss": 1.0}\n{"step": 1')
    resumed, result = finetune([*overrides, "seed=5"])
    assert result["meta"]["status"] == "finished"
    assert 1000 < result["costs"]["train_seconds"] < 1100 and result["costs"]["train_peak_bytes"] == 10**15
    steps = [json.loads(line)["step"] for line in (whole / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and len(steps) == len(set(steps)) and steps[-1] < 10000
    assert resumed == whole
    got = pq.read_table(resumed / "predictions.parquet")
    np.testing.assert_allclose(np.array(got["scores"].to_pylist()), np.array(expected["scores"].to_pylist()), atol=1e-5)


def test_a_failed_run_leaves_its_reason(tiny: Overrides, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"lr_scheduler_kwargs|unexpected"):
        commands.finetune(*tiny("bert", "train.lr_scheduler_kwargs={nonsense:1}"))
    (file,) = (tmp_path / "outputs").rglob("result.json")
    meta = json.loads(file.read_text())["meta"]
    assert meta["status"] == "failed"
    assert meta["reason"]


@pytest.mark.slow
def test_early_stopping_chooses_on_rows_of_train(tiny: Overrides) -> None:
    _, result = finetune(
        tiny("bert", "early_stopping.patience=1", "early_stopping.holdout=0.25", "train.num_train_epochs=2")
    )
    assert result["audit"]["rows"] == {"train": 18, "validation": 24, "chosen on": 6}


def test_truncation_is_counted(tiny: Overrides) -> None:
    _, result = finetune(tiny("bert", "task.max_length=8"))
    assert result["audit"]["truncated"]["train"] == 24


def test_merge_gives_a_plain_checkpoint_with_the_same_answers(tiny: Overrides) -> None:
    from transformers import AutoModelForSequenceClassification

    folder, _ = finetune(tiny("bert", "task=sst2"))
    commands.merge(folder)
    model, tokenizer = peftkit.load(folder)
    merged = AutoModelForSequenceClassification.from_pretrained(folder / "merged").eval()
    batch = tokenizer(["the film is not bad ."], return_tensors="pt")
    torch.testing.assert_close(merged(**batch).logits, model(**batch).logits, rtol=0, atol=1e-5)


def test_a_refused_merge_has_a_reason(tiny: Overrides) -> None:
    folder, _ = finetune(tiny("bert", "method=adapter"))
    with pytest.raises(UserError, match="cannot be merged"):
        commands.merge(folder)


@pytest.mark.slow
def test_evaluate_takes_mnli_to_the_diagnostics(tiny: Overrides) -> None:
    folder, _ = finetune(tiny("bert", "task=mnli"))
    commands.evaluate(folder, "task=ax", "source=offline")
    found = json.loads((folder / "evaluation-ax.json").read_text())
    assert set(found["scores"]) == {"matthews_correlation"}


def test_plan_takes_no_step(tiny: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_plans(commands.plan(*tiny("bert")))
    text = capsys.readouterr().out
    for word in ("trained weights", "steps", "tokens", "truncated", "padding", "memory"):
        assert word in text
    assert not (tmp_path / "outputs").exists()


def test_own_data_keeps_its_label_names(tiny: Overrides, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(
        "text,mood\n"
        + "".join(f"the film is {'great' if n % 2 else 'bad'} {n},{['sad', 'glad'][n % 2]}\n" for n in range(40))
    )
    overrides = tiny("bert", "task=classification", f"task.dataset={file}", "task.text=[text]", "task.label=mood")
    folder, result = finetune(overrides)
    assert result["audit"]["label_names"] == ["glad", "sad"]
    assert result["audit"]["rows"] == {"train": 24, "validation": 4}
    model, _ = peftkit.load(folder)
    assert model.config.id2label == {0: "glad", 1: "sad"}


@pytest.mark.parametrize("model", ["bert", "gpt2", "t5"])
def test_an_example_alone_and_in_a_padded_batch_score_the_same(tiny: Overrides, model: str) -> None:
    folder, _ = finetune(tiny(model, "task=sst2", "train.bf16=false"))
    net, tokenizer = peftkit.load(folder)
    texts = ["the film is bad .", "although the plot is dull, the cast makes it a truly great and moving experience ."]
    labels = {"labels": tokenizer(["positive"], return_tensors="pt")["input_ids"]} if model == "t5" else {}
    both = {"labels": labels["labels"].repeat(2, 1)} if labels else {}
    with torch.no_grad():
        alone = net(**tokenizer(texts[:1], return_tensors="pt"), **labels).logits
        batch = net(**tokenizer(texts, return_tensors="pt", padding=True), **both).logits
    torch.testing.assert_close(batch[:1], alone, rtol=0, atol=1e-5)


def test_mean_pooling_ignores_padding_and_is_kept_on_reload(tiny: Overrides) -> None:
    folder, _ = finetune(tiny("bert", "model.pooling=mean", "task=sst2", "train.bf16=false"))
    net, tokenizer = peftkit.load(folder)
    assert net.get_base_model().config.model_type == "mean_pooling_bert"
    texts = ["the film is bad .", "although the plot is dull, the cast makes it a truly great experience ."]
    with torch.no_grad():
        alone = net(**tokenizer(texts[:1], return_tensors="pt")).logits
        batch = net(**tokenizer(texts, return_tensors="pt", padding=True)).logits
    torch.testing.assert_close(batch[:1], alone, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_adalora_moves_its_ranks_over_the_steps_of_the_run(tiny: Overrides) -> None:
    overrides = tiny("bert", "method=adalora", "train.per_device_train_batch_size=4", "train.num_train_epochs=5")
    folder, result = finetune([*overrides, "method.config.deltaT=1"])
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (config["total_step"], config["tinit"], config["tfinal"]) == (30, 3, 10) and result["costs"]["steps"] == 30
    ranks = [sum(kept) for kept in config["rank_pattern"].values()]
    assert sum(ranks) == 8 * len(ranks) and len(set(ranks)) > 1  # the budget is spent, unevenly
    assert result["gates"]["reload_difference"] < 3e-2


def test_pefts_own_prefix_is_refused_where_the_model_cannot_read_it() -> None:
    from peft import PrefixTuningConfig
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    from peftkit.methods import apply_method

    model = DistilBertForSequenceClassification(DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2))
    with pytest.raises(UserError, match="use method=prefix"):
        apply_method(model, PrefixTuningConfig(num_virtual_tokens=4))
