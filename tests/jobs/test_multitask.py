"""One model for several tasks: trained as by hand, with a complete run for each task."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import commands
from helpers.commands import check
from helpers.interruption import broken_off
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    get_linear_schedule_with_warmup,
    set_seed,
)

import peftkit
from peftkit.config import RunConfig
from peftkit.data.mixing import MixedBatches
from peftkit.jobs.prune import _folder_of
from peftkit.leaderboard.reading import collect
from peftkit.results.listing import delete_run, list_runs
from peftkit.results.run_folder import SCHEMA, write_result
from peftkit.results.run_result import RunResult

Overrides = Callable[..., list[str]]
TWO = "tasks=[sst2,stsb]"


def finetune(overrides: list[str]) -> tuple[Path, dict[str, Any]]:
    (folder,) = commands.finetune(*overrides)
    return folder, result_of(folder)


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())  # type: ignore[no-any-return]


def losses_of(folder: Path) -> list[float]:
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.fixture
def without_dropout(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    folder = tmp_path / "bert"
    shutil.copytree(checkpoints["bert"], folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("batches", ["homogeneous", pytest.param("mixed", marks=pytest.mark.slow)])
def test_two_tasks_train_as_in_a_loop_by_hand(
    tiny: Overrides, without_dropout: Path, method: str, batches: str
) -> None:
    overrides = tiny(
        "bert", TWO, f"model.checkpoint={without_dropout}", "model.pooling=cls", f"method={method}",
        f"multitask.batches={batches}", "train.num_train_epochs=2", "train.learning_rate=1e-3", "train.bf16=false",
        "train.weight_decay=0", "train.warmup_steps=0", "train.logging_steps=1",
    )  # fmt: skip
    folder, result = finetune(overrides)
    weights = [each["loss_weight"] for each in result["multitask"]["tasks"].values()]
    losses, scores = by_hand(without_dropout, method, batches, folder)
    variance = np.var([row["label"] for row in rows_of(folder, "stsb", "train")])
    factors = np.array([1 / math.log(2), 1 / variance])
    np.testing.assert_allclose(weights, factors / factors.mean())
    np.testing.assert_allclose(losses_of(folder), losses, atol=1e-5)
    for task, expected in scores.items():
        found = np.array(pq.read_table(folder / task / "predictions.parquet")["scores"].to_pylist())
        np.testing.assert_allclose(found, expected, atol=1e-4)


def rows_of(folder: Path, task: str, split: str) -> list[dict[str, Any]]:
    """Return the examples that a run reads of miniglue, which it takes in a fixed random order."""
    from peftkit.data.datasets import load_task_dataset
    from peftkit.results.run_result import RunResult

    return list(load_task_dataset(RunResult(folder / task).config.task, None, "offline").splits[split])  # type: ignore[arg-type]


def by_hand(checkpoint: Path, method: str, batches: str, folder: Path) -> tuple[list[float], dict[str, Any]]:
    """Return the losses (steps,) and the scores by task of a loop without peftkit, but for the order of examples."""
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    columns = {"sst2": ("sentence",), "stsb": ("sentence1", "sentence2")}
    data = {task: [rows_of(folder, task, split) for split in ("train", "validation")] for task in columns}
    models = {}
    for task, labels in (("sst2", 2), ("stsb", 1)):
        set_seed(0)
        models[task] = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=labels)
        if method == "lora":
            config = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules="all-linear")
            models[task] = get_peft_model(models[task], config)
    first, second = ((each.base_model.model if method == "lora" else each) for each in models.values())
    second.bert = first.bert

    def batch(task: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        encoded = [
            {
                **tokenizer(*(row[name] for name in columns[task]), truncation=True, max_length=128),
                "label": row["label"],
            }
            for row in rows
        ]
        return DataCollatorWithPadding(tokenizer)(encoded)  # type: ignore[no-any-return]

    lengths = [
        np.array([len(tokenizer(*(row[name] for name in columns[task]))["input_ids"]) for row in data[task][0]])
        for task in columns
    ]
    counts = [len(each) for each in lengths]
    variance = np.var([row["label"] for row in data["stsb"][0]])
    factors = np.array([1 / math.log(2), 1 / variance])
    factors /= factors.mean()
    order = MixedBatches(lengths, counts, 8, 0, is_homogeneous=batches == "homogeneous")
    steps = [each for epoch in range(2) for each in order.batches(epoch)]
    weights = list({id(w): w for model in models.values() for w in model.parameters() if w.requires_grad}.values())
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, len(steps))
    losses = []
    for step in steps:
        loss = torch.zeros(())
        for number, task in enumerate(columns):
            chosen = [data[task][0][index - number * counts[0]] for index in step if (index >= counts[0]) == number]
            if chosen:
                own = models[task].train()(**batch(task, chosen)).loss
                loss = loss + own * len(chosen) / len(step) * factors[number]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        scores = {task: models[task].eval()(**batch(task, data[task][1])).logits.numpy() for task in columns}
    return losses, scores


def test_each_task_is_a_complete_run(tiny: Overrides, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder, result = finetune(tiny("bert", TWO, "train.bf16=false"))
    assert folder.parent.parent.parent.name == "multi-sst2-stsb" and result["meta"]["status"] == "finished"
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "log.jsonl", "result.json", "sst2", "stsb"}
    for task in ("sst2", "stsb"):
        own = result_of(folder / task)
        assert {path.name for path in (folder / task).iterdir()} == {
            "README.md", "adapter", "config.yaml", "predictions.parquet", "report.html", "result.json"
        }  # fmt: skip
        assert own["gates"]["reload_difference"] == 0 and own["run"]["config"]["task"]["name"] == task
        assert own["scores"] == result["tasks"][task]["scores"]
        assert own["costs"]["train_seconds"] == result["costs"]["train_seconds"]
    rows = pq.read_table(folder / "sst2" / "predictions.parquet").to_pylist()
    answers = peftkit.predict(folder / "sst2", [row["sentence"] for row in rows])
    assert [each.prediction for each in answers] == [row["prediction_name"] for row in rows]
    config = AutoConfig.from_pretrained(folder / "sst2" / "adapter" / "base")
    base = AutoModelForSequenceClassification.from_pretrained(checkpoints["bert"], config=config)
    plain = PeftModel.from_pretrained(base, str(folder / "sst2" / "adapter")).eval()
    ours, tokenizer = peftkit.load(folder / "sst2")
    batch = tokenizer([rows[0]["sentence"]], return_tensors="pt")
    assert torch.equal(plain(**batch).logits, ours(**batch).logits)
    assert "each of which has a folder there" in check([f"run={folder}", "job=predict", "input=a text"])[0]
    merged = commands.merge(folder / "sst2", f"output={tmp_path}/merged")
    assert merged is not None


def test_a_plan_counts_the_steps_and_weights_of_the_run(tiny: Overrides) -> None:
    overrides = tiny("bert", TWO, "method=lora", "multitask.batches=mixed", "train.num_train_epochs=2")
    (plan,) = commands.plan(*overrides, "plan.measure=true")
    _, result = finetune(overrides)
    costs = result["costs"]
    assert plan.steps == costs["steps"] and plan.examples == 48
    assert (plan.parameters.trainable, plan.parameters.total) == (costs["trainable_params"], costs["total_params"])
    assert plan.tokens == pytest.approx(costs["tokens"], abs=1) and plan.memory.total > 0
    assert plan.padding_waste == pytest.approx(costs["padding_waste"])
    assert plan.duration is not None and plan.duration.total > 0


def test_boards_and_lists_show_the_tasks_and_the_run(tiny: Overrides, tmp_path: Path) -> None:
    folder, _ = finetune(tiny("bert", TWO))
    finetune(tiny("bert", "task=sst2"))
    runs = collect([tmp_path / "outputs"])
    assert sorted(run.task for run in runs) == ["sst2", "sst2", "stsb"]  # type: ignore[union-attr]
    assert sorted(run.settings.get("tasks", "") for run in runs) == ["", "sst2,stsb", "sst2,stsb"]  # type: ignore[union-attr]
    assert not any(name.startswith("multitask") for run in runs for name in run.settings)  # type: ignore[union-attr]
    (listed,) = [run for run in list_runs(tmp_path / "outputs") if run.task == "multi-sst2-stsb"]
    assert listed.folder == folder and listed.keep is None
    delete_run(listed, tmp_path / "outputs")
    assert not folder.exists() and len(list_runs(tmp_path / "outputs")) == 1


@pytest.mark.parametrize(
    "more",
    [
        ("method=lora", "train.save_strategy=steps", "train.save_steps=2"),
        pytest.param(("method=full", "train.save_strategy=steps", "train.save_steps=2"), marks=pytest.mark.slow),
        pytest.param(
            ("method=lora", "train.save_strategy=steps", "train.save_steps=2", "multitask.tags=true"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("method=lora", "early_stopping.patience=5", "multitask.adapter=shared_and_per_task"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_resumed_run_ends_as_an_unbroken_one(tiny: Overrides, tmp_path: Path, more: tuple[str, ...]) -> None:
    overrides = tiny("bert", TWO, "train.num_train_epochs=3", "train.logging_steps=1", *more)
    unbroken, result = finetune([*overrides, f"out={tmp_path}/unbroken"])
    with broken_off(7):
        finetune(overrides)
    state = next((tmp_path / "outputs").rglob("checkpoints/checkpoint-6/model.safetensors"))
    own = ("classifier", "original", "position_ids", "token_type_ids")  # the last two are buffers
    assert all(name.startswith("views.0.") or any(part in name for part in own) for name in load_file(state))
    folder, again = finetune(overrides)
    assert losses_of(folder) == losses_of(unbroken)
    for task in ("sst2", "stsb"):
        assert again["tasks"][task]["scores"] == result["tasks"][task]["scores"]
        files = sorted((folder / task).rglob("*.safetensors"))
        assert files and all(file.read_bytes() == (unbroken / file.relative_to(folder)).read_bytes() for file in files)


def test_a_finished_run_is_not_trained_again_unless_a_task_is_damaged(
    tiny: Overrides, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = finetune(tiny("bert", TWO))
    finetune(tiny("bert", TWO))
    assert "finished already" in capsys.readouterr().err
    weights = folder / "stsb" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    finetune(tiny("bert", TWO))
    assert "the run is trained again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("t5", ("method=lora", "multitask.batches=mixed")),
        pytest.param("gpt2", ("method=lora", "multitask.adapter=per_task"), marks=pytest.mark.slow),
        pytest.param("gpt2", ("method=lora", "multitask.adapter=shared_and_per_task"), marks=pytest.mark.slow),
        pytest.param("bert", ("method=ia3", "multitask.mixing=equal"), marks=pytest.mark.slow),
        pytest.param("bert", ("method=prefix", "early_stopping.patience=1"), marks=pytest.mark.slow),
        pytest.param("bert", ("method=linear_probe",), marks=pytest.mark.slow),
        pytest.param(
            "gpt2", ("method=prompt", "multitask.mixing=temperature", "multitask.temperature=2"), marks=pytest.mark.slow
        ),
        pytest.param(
            "bert", ("method=adapter", "calibration.holdout=0.3", "tasks=[sst2,mrpc]"), marks=pytest.mark.slow
        ),
        pytest.param("bert", ("method=bitfit", "multitask.weights={sst2:3}"), marks=pytest.mark.slow),
        pytest.param("bert", ("method=qlora",), marks=pytest.mark.slow),
    ],
)
def test_methods_and_models_train_on_several_tasks(tiny: Overrides, model: str, more: tuple[str, ...]) -> None:
    typed = [] if any(each.startswith("tasks=") for each in more) else [TWO]
    folder, result = finetune(tiny(model, *typed, *more))
    assert all(each["gates"]["reload_difference"] <= 1e-4 for each in result["tasks"].values())
    if "multitask.adapter=per_task" in more:
        files = [load_file(folder / task / "adapter" / "adapter_model.safetensors") for task in result["tasks"]]
        name = next(name for name in files[0] if "lora_B" in name)
        assert not torch.equal(files[0][name], files[1][name])


@pytest.mark.slow
def test_one_of_several_tasks_starts_another_run_and_is_combined(tiny: Overrides, tmp_path: Path) -> None:
    overrides = tiny("bert", TWO, "method=lora", "multitask.adapter=shared_and_per_task", "train.bf16=false")
    folder, _ = finetune(overrides)
    settings = dict(each.split("=", 1) for each in tiny("bert") if not each.startswith("train."))
    for key in ("task.max_train_samples", "task.max_eval_samples"):
        settings[key] = 24  # type: ignore[assignment]
    run = peftkit.finetune(task="rte", start=folder / "sst2", train={"max_steps": 1}, **settings)
    found = run.record["run"]["config"]["method"]["config"]
    assert (found["r"], found["lora_alpha"]) == (16, 32)
    small = peftkit.prune(folder / "sst2", heads=0.25)
    assert small.folder.parents[4] == folder.parents[4] and small.folder.parents[2].name == "sst2"
    smaller = peftkit.prune(small.folder, heads=0.5)
    assert smaller.folder.parent == small.folder.parent and smaller.folder != small.folder
    both = peftkit.combine([folder / "sst2", folder / "stsb"], [1, 0], source="offline", out=tmp_path / "combined")
    texts = ["a fine film", "a bad film"]
    expected = [each.scores for each in peftkit.predict(folder / "sst2", texts)]
    assert [each.scores for each in peftkit.predict(both[0], texts)] == [
        pytest.approx(each, abs=1e-4) for each in expected
    ]


def test_a_pruned_run_of_a_task_is_in_the_folder_of_the_task_or_beside_the_run(tiny: Overrides, tmp_path: Path) -> None:
    (config,) = commands.choose(tiny("bert", TWO))
    standard = Path("outputs", "glue", "sst2", "tiny", "lora", "seed-0-b")

    def write(folder: str, config: RunConfig) -> None:
        write_result(tmp_path / folder, {"schema": SCHEMA, "run": {"config": config.to_dict()}, "meta": {}})

    for together in ("outputs/glue/sst2-stsb/tiny/lora/seed-0-a", "copies/multi"):
        write(together, config)
    for run, folder in {
        "outputs/glue/sst2-stsb/tiny/lora/seed-0-a/sst2": standard,
        "outputs/glue/sst2/tiny/lora/seed-0-0": standard,  # which is pruned itself
        "copies/multi/sst2": "copies/seed-0-b",
        "copies/sst2": "copies/seed-0-b",
    }.items():
        write(run, replace(config, task=(config.tasks or [])[0]))
        assert _folder_of(RunResult(tmp_path / run), standard) == tmp_path / folder


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("method=adalora", "method=adalora has a schedule for the steps of one task; use method=lora"),
        ("method=gradual", "method=gradual has a schedule"),
        ("method=zero_shot model=gpt2", "method=zero_shot trains nothing that tasks could share"),
        ("method=ia3 multitask.adapter=shared_and_per_task", "multitask.adapter=shared_and_per_task is for plain LoRA"),
        ("method=full multitask.adapter=per_task", "method=full trains the base, which tasks share"),
        (
            "multitask.mixing=temperature",
            "multitask.mixing=temperature has no temperature; set multitask.temperature=2",
        ),
        ("multitask.temperature=2", "multitask.mixing=proportional has no temperature"),
        ("multitask.mixing=equal multitask.limit=9", "multitask.mixing=equal has no limit"),
        ("multitask.mixing=eqal", "multitask.mixing=eqal: unknown value; did you mean multitask.mixing=equal?"),
        ("multitask.weights={cola:2}", "multitask.weights.cola: unknown task"),
        ("multitask.weights={sst2:0}", "multitask.weights.sst2=0: expected a number above 0"),
        ("method=bag_of_words", "tasks is for methods that train in steps; method=bag_of_words is fitted at once"),
        ("search.lr_multipliers=[1,3]", "a search is for one task"),
        ("trial=true", "trial=true is for one task"),
        ("task.folds=3", "task.folds is for one task"),
        ("tasks=null multitask.limit=9", "multitask.limit is for tasks=[...]; drop it"),
        ("train.train_sampling_strategy=token_budget", "train.train_sampling_strategy=token_budget is for one task"),
    ],
)
def test_what_does_not_go_together_is_refused(typed: str, message: str) -> None:
    overrides = [*([] if "tasks=" in typed else [TWO]), *typed.split()]
    errors = check(overrides)
    assert any(message in error for error in errors), errors
    for error in errors:
        for fix in getattr(error, "fix", ()):
            assert error not in check(commands.apply_fix(overrides, fix)), fix
