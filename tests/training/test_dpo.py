"""Direct preference optimization: TRL's loss is the paper's, the reference is the base, and a run learns and resumes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from helpers import commands
from helpers.commands import check, compose_config
from helpers.interruption import broken_off
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

import peftkit
from peftkit import training
from peftkit.cli.files import options_of
from peftkit.config import RunConfig
from peftkit.data.formats.preferences import REFERENCE_COLUMNS, PreferenceFormat
from peftkit.metrics import score
from peftkit.pipeline.artifacts import find_model
from peftkit.pipeline.build import build
from peftkit.pipeline.evaluate import output_reader, predict_encoded, predictor
from peftkit.pipeline.examples import score_reference
from peftkit.pipeline.train import trainer_factory

Overrides = Callable[..., list[str]]
SOURCES = (
    "linear_probe",
    "linear_probe_mix",
    "untuned",
    "peft",
    "adalora",
    "zero_shot",
    "few_shot",
    "steering",
    "boft",
    "oft",
    "bag_of_words",
    "mean_embedding",
    "features",
)  # refused, or no method
METHODS = sorted(options_of("method").keys() - {*SOURCES})
FAST = ("full", "lora", "prefix", "adapter")


def rows(count: int, prompts: int | None = None) -> list[dict[str, Any]]:
    """Return pairs of unlike lengths whose chosen answer alone is glad."""
    return [
        {
            "prompt": "the city saw " + " ".join(["a film"] * (1 + row % (prompts or count))),
            "chosen": "it is good" + " and good" * (row % 3),
            "rejected": "it was bad" + " of the bad" * ((row + 1) % 4),
        }
        for row in range(count)
    ]


@pytest.fixture
def pairs(tiny: Overrides, tmp_path: Path) -> Overrides:
    """Return the overrides of a run on pairs: pairs("method=lora", ...)."""
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(24)))

    def overrides(*more: str) -> list[str]:
        own = ["task=preferences", f"task.dataset={file}", "task.max_length=60", "task.max_target_length=40"]
        return [*tiny("gpt2", *own), "train.bf16=false", *more]

    return overrides


def finetune(overrides: list[str]) -> tuple[Path, dict]:
    (folder,) = commands.finetune(*overrides)
    return folder, json.loads((folder / "result.json").read_text())


def set_up(overrides: list[str], table: Dataset) -> tuple[RunConfig, Any, Any, Any]:
    """Return a run's bundle, its rows with the reference beside them, and an untouched copy of its base."""
    run = RunConfig.from_config(OmegaConf.to_container(compose_config(overrides), resolve=True))  # type: ignore[arg-type]
    source = find_model(run.model, "offline")
    reference = score_reference(run, source, {"all": table})
    bundle, encoded = build(run, source, None, table)
    base = AutoModelForCausalLM.from_pretrained(run.model.checkpoint, dtype=torch.float32).eval()
    base.to("cuda" if torch.cuda.is_available() else "cpu")  # the Trainer's device
    return run, bundle, reference.add_likelihoods("all", encoded), base


def by_hand(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Return log p(answer | prompt) of one text without padding."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    logs = torch.log_softmax(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1], dim=-1)
    return logs[range(len(prompt) - 1, ids.shape[1] - 1), ids[0, len(prompt) :]].sum()


def losses(name: str, margin: torch.Tensor, chosen: torch.Tensor, rejected: torch.Tensor, sizes: Any) -> torch.Tensor:
    """Return a pair's loss at beta 0.3: margin, chosen and rejected are log-ratios, not rewards."""
    if name == "sigmoid":
        return -torch.log(torch.sigmoid(0.3 * margin))
    if name == "hinge":
        return torch.clamp(1 - 0.3 * margin, min=0)
    if name == "ipo":  # Azar et al. 2023, equation 17, a token
        return (chosen / sizes[0] - rejected / sizes[1] - 1 / (2 * 0.3)) ** 2
    if name == "robust":  # Chowdhury et al. 2024, equation 12
        wrong = 0.1
        return (-(1 - wrong) * torch.sigmoid(0.3 * margin).log() + wrong * torch.sigmoid(-0.3 * margin).log()) / (
            1 - 2 * wrong
        )
    return 1 - torch.sigmoid(0.3 * chosen) + torch.sigmoid(0.3 * rejected)  # D'Oosterlinck et al. 2024, equation 7


@pytest.mark.parametrize(
    ("method", "loss"),
    [
        *(
            pytest.param(method, "sigmoid", marks=() if method in FAST else pytest.mark.slow)
            for method in METHODS
            if method != "qlora"
        ),
        *(("full", loss) for loss in ("ipo", "hinge", "robust", "apo_zero")),
    ],
)
def test_loss_and_gradients_are_those_of_a_loop_by_hand(
    pairs: Overrides, tmp_path: Path, method: str, loss: str
) -> None:
    overrides = pairs(f"method={method}", "task.beta=0.3", f"task.loss_type={loss}", "seed=3")
    overrides += ["task.label_smoothing=0.1"] if loss == "robust" else []
    run, bundle, encoded, base = set_up(overrides, Dataset.from_list(rows(5)))
    torch.manual_seed(0)
    with torch.no_grad():  # away from where the reference is
        for weight in bundle.model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)
    arguments = training.training_arguments(run.train, 0, tmp_path, select_best=False)
    trainer = trainer_factory(run, bundle, arguments)(
        model=bundle.model,
        args=arguments,
        data_collator=bundle.format.collator(),
        train_dataset=encoded.inputs,
        reader=output_reader(bundle),
    )
    batch = trainer.prepare_inputs(bundle.format.collator()(list(encoded.inputs)))
    assert len({len(row["prompt_ids"]) for row in encoded.inputs}) == 5  # so that there is padding
    bundle.model.train()
    found = trainer.compute_loss(bundle.model, batch)
    found.backward()
    weights = {name: weight for name, weight in bundle.model.named_parameters() if weight.requires_grad}
    gradients = {name: weight.grad.clone() for name, weight in weights.items() if weight.grad is not None}
    bundle.model.zero_grad()
    total = []
    for row in encoded.inputs:
        answers = [(row["prompt_ids"], row[name]) for name in ("chosen_ids", "rejected_ids")]
        assert all(answer[-1] == bundle.tokenizer.eos_token_id for _, answer in answers)
        with torch.no_grad():
            reference = [by_hand(base, *each) for each in answers]
        recorded = torch.tensor([row[name] for name in REFERENCE_COLUMNS])
        torch.testing.assert_close(recorded, torch.stack(reference).cpu())
        ratios = [by_hand(bundle.model, *each) - known for each, known in zip(answers, reference, strict=True)]
        total.append(losses(loss, ratios[0] - ratios[1], *ratios, [len(each) for _, each in answers]))
    wanted = torch.stack(total).mean()
    wanted.backward()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert gradients and gradients.keys() == {name for name, each in weights.items() if each.grad is not None}
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, weights[name].grad, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("precision", ["bf16=false", "bf16=true"])
def test_an_untrained_adapter_has_no_margin_and_half_of_the_pairs_right(pairs: Overrides, precision: str) -> None:
    overrides = pairs("method=lora", f"train.{precision}", "train.per_device_eval_batch_size=4")
    run, bundle, encoded, _ = set_up(overrides, Dataset.from_list(rows(9)))
    answers, _ = predict_encoded(bundle, predictor(run, bundle), encoded)
    assert np.array_equal(answers.predictions, np.zeros(9))
    assert score(["reward_accuracy"], answers.predictions, encoded.labels)["reward_accuracy"]["value"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_preference_is_learned_and_its_folder_tells_all(pairs: Overrides, method: str) -> None:
    overrides = ["train.num_train_epochs=8", "train.learning_rate=5e-3", "early_stopping.patience=8"]
    folder, result = finetune(pairs(f"method={method}", *overrides))
    scores = {name: entry["value"] for name, entry in result["scores"].items()}
    assert scores["reward_accuracy"] == 1.0 and scores["reward_margin"] > 0.5
    assert sum(result["audit"]["rows"].values()) == 24
    table = pq.read_table(folder / "predictions.parquet").to_pylist()
    for row in table:
        chosen, rejected, nats, tokens = row["scores"]
        assert row["prediction"] == pytest.approx(chosen - rejected) and nats < 0 < tokens
    likelihood = -sum(row["scores"][2] for row in table) / sum(row["scores"][3] for row in table)
    assert scores["chosen_perplexity"] == pytest.approx(np.exp(likelihood))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert any("rewards/margins" in entry for entry in log)


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_as_an_unbroken_one(pairs: Overrides) -> None:
    overrides = pairs("method=lora", "train.num_train_epochs=3", "train.learning_rate=5e-3")
    whole, result = finetune(overrides)
    expected = pq.read_table(whole / "predictions.parquet")
    with broken_off(step=result["costs"]["steps"] * 2 // 3):  # as the third epoch begins
        finetune([*overrides, "force=true"])
    resumed, result = finetune(overrides)
    assert resumed == whole and result["meta"]["status"] == "finished"
    got = pq.read_table(resumed / "predictions.parquet")
    np.testing.assert_allclose(np.array(got["scores"].to_pylist()), np.array(expected["scores"].to_pylist()), atol=1e-5)


@pytest.mark.slow
def test_a_run_is_evaluated_again_answers_and_merges(
    pairs: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result = finetune(pairs("method=lora", "train.learning_rate=5e-3"))
    commands.evaluate(folder, "source=offline")
    (file,) = folder.glob("evaluation-*.json")
    for name, entry in json.loads(file.read_text())["scores"].items():
        assert entry["value"] == pytest.approx(result["scores"][name]["value"], abs=1e-6)
    predictions = pq.read_table(folder / "predictions.parquet").to_pylist()
    known = {row["id"]: row for row in predictions}
    examples = tmp_path / "examples.jsonl"
    examples.write_text("".join(json.dumps(row) + "\n" for number, row in enumerate(rows(24)) if number in known))
    commands.predict(folder, examples, f"output={tmp_path}/out.jsonl")
    again = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(
        [row["prediction"] for row in again], [known[number]["prediction"] for number in sorted(known)], atol=1e-5
    )
    capsys.readouterr()
    commands.predict(folder, "the city saw")
    answer = json.loads(capsys.readouterr().out)
    assert answer["prompt"] == "the city saw" and isinstance(answer["prediction"], str)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "the city saw"}\n{"prompt": " "}\n')
    commands.predict(folder, prompts, f"output={tmp_path}/written.jsonl")
    first, second = (json.loads(line) for line in (tmp_path / "written.jsonl").read_text().splitlines())
    assert first["prediction"] == answer["prediction"] and second["prediction"] is None
    commands.run(["job=merge", f"run={folder}", f"output={tmp_path}/merged"])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    ours, tokenizer = peftkit.load(folder)
    batch = tokenizer(["the city saw"], return_tensors="pt")
    torch.testing.assert_close(merged(**batch).logits, ours(**batch).logits, atol=1e-5, rtol=1e-5)


def test_a_plan_measures_memory_and_time_without_a_reference(pairs: Overrides) -> None:
    plan = commands.run(pairs("job=plan", "plan.measure=true"))
    assert plan.memory.total > plan.memory.weights > 0 and plan.duration is not None
    assert plan.duration.total > plan.duration.training > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_its_gates_hold(pairs: Overrides, method: str) -> None:
    _, result = finetune(pairs(f"method={method}"))
    assert result["meta"]["status"] == "finished" and result["gates"]["rows"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["adapter", "adapter_parallel", "prompt", "prefix", "p_tuning", "mam", "unipelt"])
def test_a_tuner_of_ours_that_is_switched_off_is_the_reference(pairs: Overrides, method: str) -> None:
    _, bundle, encoded, _ = set_up(pairs(f"method={method}"), Dataset.from_list(rows(5)))
    batch = bundle.format.collator()(list(encoded.inputs))
    batch = {name: values.to(bundle.model.device) for name, values in batch.items()}
    with torch.no_grad(), bundle.model.eval().disable_adapter():
        found = output_reader(bundle)(bundle.model, batch)
    known = torch.stack([batch[name] for name in REFERENCE_COLUMNS], dim=1)
    torch.testing.assert_close(found, known, atol=1e-5, rtol=1e-6)


def test_trl_gets_our_arguments_and_none_of_its_own(tmp_path: Path) -> None:
    ours = training.training_arguments({"learning_rate": 3e-4, "bf16": False, "report_to": "none"}, 5, tmp_path, False)
    from trl import DPOConfig

    from peftkit.training.trl import trl_arguments

    its = trl_arguments(DPOConfig, ours, beta=0.1, precompute_ref_log_probs=True)
    for field in dataclasses.fields(TrainingArguments):
        assert getattr(its, field.name, None) == getattr(ours, field.name, None), field.name


def test_the_batch_is_that_of_trl(checkpoints: dict[str, Path]) -> None:
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    tokenizer = AutoTokenizer.from_pretrained(checkpoints["gpt2"])
    tokenizer.pad_token = tokenizer.eos_token
    table = [
        {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 0], "rejected_ids": [9, 9, 9, 0]},
        {"prompt_ids": [5], "chosen_ids": [8, 0], "rejected_ids": [0]},
    ]
    table = [row | dict.fromkeys(REFERENCE_COLUMNS, -float(number)) for number, row in enumerate(table)]
    run = RunConfig.from_config(compose_config(["task=preferences", "task.dataset=x"]))
    ours = PreferenceFormat(run.task, tokenizer, "decoder").collator()(table)
    its = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)(table)
    assert ours.keys() == its.keys()
    for name, value in its.items():
        width = value.shape[-1]  # on a GPU ours are padded further, to multiples of 8
        assert torch.equal(ours[name][..., :width], value), name
        if name.endswith("mask"):
            assert not ours[name][..., width:].any(), name


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model=t5"], "has no head for task=preferences (preferences); use model=gpt2"),
        (["model=bert"], "has no head for task=preferences (preferences); use model=gpt2"),
        (["task.loss_type=sigmod"], "did you mean task.loss_type=sigmoid?"),
        (["task.loss_type=robust"], "set task.label_smoothing=0.1"),
        (["task.label_smoothing=0.1"], "use task.loss_type=robust"),
        (["task.beta=0"], "task.beta=0: expected a number above 0"),
        (["task.beta=null"], "set task.beta=0.1"),
        (["task.label=x"], "task.label is not for task.kind=preferences"),
        (["task.text=[prompt,chosen]"], "use task.text=[prompt,chosen,rejected]"),
        (["method=adalora"], "use method=lora"),
        (["method=few_shot"], "cannot be trained on preferences; use method=lora"),
        (["method=linear_probe"], "use method=bitfit or method=lora"),
        (["method=peft", "method.config._target_=peft.PrefixTuningConfig"], "use method=prompt"),
        (["train.label_smoothing_factor=0.1"], "use task.loss_type=robust"),
        (["task=causal_lm", "task.text=[a]", "+task.beta=0.1"], "task.beta is not for task.kind=causal_lm; drop it"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: list[str], sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("{}\n")
    found = check(["recipe=dpo", f"task.dataset={file}", "source=offline", *overrides])
    assert any(sentence in each for each in found), found
