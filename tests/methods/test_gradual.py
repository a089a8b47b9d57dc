"""Weights join from the head down, and none changes by a bit before its turn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers import commands
from helpers.interruption import BreakOff, broken_off
from helpers.two_processes import run_two
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
)

from peftkit import training
from peftkit.config import UserError
from peftkit.methods import Gradual
from peftkit.methods.gradual import groups_of, start_steps
from peftkit.models.heads import CLASSIFIERS

BERT = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
}  # fmt: skip
GPT2 = GPT2Config(
    vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=32, pad_token_id=0, bos_token_id=1, eos_token_id=1
)
T5 = T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, decoder_start_token_id=0)
DISTILBERT = DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2, hidden_dim=48)
# the model, and how the groups begin between the head, which some lack, and the embeddings
MODELS: dict[str, tuple[Any, Any, list[str]]] = {
    "bert": (BertForSequenceClassification, BertConfig(**BERT), ["head", "bert.encoder.layer"]),
    "bert-token": (BertForTokenClassification, BertConfig(**BERT), ["head", "bert.encoder.layer"]),
    "bert-qa": (BertForQuestionAnswering, BertConfig(**BERT), ["head", "bert.encoder.layer"]),
    "bert-mean": (
        CLASSIFIERS["bert"][1], CLASSIFIERS["bert"][0](**BERT), ["head", "bert.encoder.layer"],
    ),
    "roberta": (RobertaForSequenceClassification, RobertaConfig(**BERT), ["head", "roberta.encoder.layer"]),
    "distilbert": (DistilBertForSequenceClassification, DISTILBERT, ["head", "distilbert.transformer.layer"]),
    "gpt2": (GPT2ForSequenceClassification, GPT2, ["head", "transformer.h"]),
    "gpt2-lm": (GPT2LMHeadModel, GPT2, ["transformer.h"]),
    "llama-lm": (LlamaForCausalLM, LlamaConfig(**BERT), ["model.layers"]),
    "t5": (T5ForConditionalGeneration, T5, ["decoder.block", "encoder.block"]),
}  # fmt: skip
TRAINED = ["bert", "bert-mean", "roberta", "distilbert", "gpt2", "t5"]
Words = Callable[..., list[str]]


def build(name: str) -> Any:
    model_class, config, _ = MODELS[name]
    torch.manual_seed(0)
    return model_class(config)


def rows(name: str, number: int = 12) -> Dataset:
    ids = torch.randint(3, 50, (number, 6), generator=torch.Generator().manual_seed(0)).tolist()
    labels = [[row % 3 + 3, 1] if name == "t5" else row % 2 for row in range(number)]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 6] * number, "labels": labels})


def trainer_of(
    name: str, gradual: Gradual, folder: Path, save: bool = False, **settings: Any
) -> training.ScoringTrainer:
    """Return a trainer of 3 steps an epoch, which keeps a checkpoint of each where it is to save."""
    from transformers import default_data_collator

    settings = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "weight_decay": 0.1, "bf16": False} | settings
    arguments = training.training_arguments(
        {"disable_tqdm": True, "report_to": "none", **settings}, 0, folder if save else None, unused_parameters=True
    )
    model = gradual.apply(build(name))
    return training.ScoringTrainer(
        model=model,
        args=arguments,
        data_collator=default_data_collator,
        train_dataset=rows(name),
        reader=lambda net, inputs: net(**inputs).logits,
        schedule=gradual.unfreezing(model),
        log_file=folder / "log.jsonl",
    )


class Snapshots(TrainerCallback):
    """Keep the weights as they are after each step."""

    def __init__(self) -> None:
        self.after: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.after.append({name: weight.detach().clone() for name, weight in model.named_parameters()})


@pytest.mark.parametrize("name", MODELS)
def test_the_head_comes_first_then_each_layer_from_the_last_then_the_embeddings(name: str) -> None:
    model, (*_, begins) = build(name), MODELS[name]
    expected = ["head"] if begins[0] == "head" else []
    expected += [f"{layers}.{number}" for layers in begins if layers != "head" for number in (1, 0)]
    groups = groups_of(model)
    assert list(groups) == [*expected, "embeddings"]
    found = [id(weight) for weights in groups.values() for weight in weights.values()]
    assert sorted(found) == sorted(id(weight) for weight in model.parameters())  # each once, none left out


def test_norms_poolers_and_projections_join_with_what_they_belong_to() -> None:
    groups = [group for name in ("bert", "gpt2", "t5", "llama-lm") for group in groups_of(build(name)).items()]
    place = {weight: group for group, weights in groups for weight in weights}
    assert place["bert.pooler.dense.weight"] == place["classifier.weight"] == place["score.weight"] == "head"
    assert place["transformer.ln_f.weight"] == "transformer.h.1"
    assert place["encoder.final_layer_norm.weight"] == "encoder.block.1"
    assert place["decoder.final_layer_norm.weight"] == "decoder.block.1"
    assert place["lm_head.weight"] == "model.layers.1"  # Llama's, which is not tied


def test_each_group_has_the_rate_of_the_one_above_divided_by_the_decay(tmp_path: Path) -> None:
    trainer = trainer_of("bert", Gradual("epoch", 2.6), tmp_path)
    settings = {id(weight): group for group in trainer.create_optimizer().param_groups for weight in group["params"]}
    weights = dict(trainer.model.named_parameters())
    assert len(settings) == len(weights)
    for name, rate in {
        "classifier.weight": 1e-2,
        "bert.encoder.layer.1.output.dense.weight": 1e-2 / 2.6,
        "bert.encoder.layer.0.output.dense.bias": 1e-2 / 2.6**2,
        "bert.embeddings.LayerNorm.weight": 1e-2 / 2.6**3,
    }.items():
        found = settings[id(weights[name])]
        assert found["lr"] == pytest.approx(rate, rel=1e-12)
        assert found["weight_decay"] == (0.1 if name.endswith("dense.weight") or name == "classifier.weight" else 0.0)


@pytest.mark.parametrize("name", TRAINED)
def test_a_weight_keeps_every_bit_until_its_turn_and_trains_from_then(tmp_path: Path, name: str) -> None:
    trainer = trainer_of(name, Gradual(every=2, decay=2.6), tmp_path, num_train_epochs=4)
    start = {weight: value.detach().clone() for weight, value in trainer.model.named_parameters()}
    trainer.add_callback(snapshots := Snapshots())
    trainer.train()
    joined = {group: 2 * number for number, group in enumerate(groups_of(trainer.model))}
    for group, weights in groups_of(trainer.model).items():
        for weight in weights:
            for step, values in enumerate(snapshots.after[: joined[group]], start=1):
                assert torch.equal(values[weight], start[weight]), (weight, step)
            moved = not torch.equal(snapshots.after[-1][weight], start[weight])
            assert moved or not _has_gradient(trainer.model, weight), weight
    assert all(weight.requires_grad for weight in trainer.model.parameters())


def _has_gradient(model: Any, name: str) -> bool:
    """Tell whether a weight matters at all: keys' biases and second token types do not."""
    return not name.endswith(("key.bias", "k_lin.bias", "token_type_embeddings.weight"))


def test_a_frozen_layer_costs_no_backward_pass(tmp_path: Path) -> None:
    trainer = trainer_of("bert", Gradual(every=2, decay=2.6), tmp_path, max_steps=8)
    model, seen = trainer.model, []
    model.bert.encoder.layer[0].register_forward_hook(lambda *call: seen.append(call[2].requires_grad))
    trainer.train()
    assert seen == [False] * 4 + [True] * 4


def test_each_joining_is_an_entry_of_the_log(tmp_path: Path) -> None:
    trainer = trainer_of("gpt2", Gradual("epoch", 2.6), tmp_path, num_train_epochs=4)
    trainer.train()
    told = _told(tmp_path)
    assert [entry["step"] for entry in told] == [0, 3, 6, 9]  # an epoch has three
    assert [entry["unfrozen"] for entry in told] == ["head", "transformer.h.1", "transformer.h.0", "embeddings"]
    trainer_of("gpt2", Gradual("epoch", 2.6), tmp_path, num_train_epochs=4).train()
    assert _told(tmp_path) == told  # training anew, where there is no checkpoint, forgets what was logged
    sizes = [entry["trainable_params"] for entry in told]
    assert sizes[0] == 64 and sizes[-1] == sum(weight.numel() for weight in trainer.model.parameters())


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [
        ("epoch", 50, [0, 10, 20, 30]),
        ("epoch", 40, [0, 10, 20, 30]),
        ("epoch", 30, [0, 5, 10, 15]),  # the fourth epoch is missing: evenly over the first half
        ("epoch", 1, [0, 0, 0, 0]),
        (7, 30, [0, 7, 14, 21]),
        (0.25, 40, [0, 10, 20, 30]),
    ],
)
def test_all_join_in_time(every: Any, steps: int, expected: list[int]) -> None:
    assert start_steps(4, every, steps, epoch=10) == expected


@pytest.mark.parametrize("every", [10, 0.4])
def test_a_pace_that_leaves_weights_frozen_for_good_is_refused(every: float) -> None:
    with pytest.raises(UserError, match="reaches 3 of 4 groups of weights in 30 steps; use method"):
        start_steps(4, every, steps=30, epoch=10)


@pytest.mark.parametrize("settings", [{"every": 0}, {"every": -1}, {"decay": 0.5}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"every=|decay="):
        Gradual(**{"every": "epoch", "decay": 2.6} | settings)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_activation_checkpointing_changes_no_weight(tmp_path: Path, name: str) -> None:
    ends = []
    for checkpointing in (False, True):
        trainer = trainer_of(
            name, Gradual(every=2, decay=2.6), tmp_path, num_train_epochs=4, activation_checkpointing=checkpointing
        )
        trainer.train()
        ends.append(trainer.model.state_dict())
    for weight, value in ends[0].items():
        torch.testing.assert_close(ends[1][weight], value, rtol=0, atol=1e-5)


BROKEN_AT = 8  # in the third epoch: the checkpoint of step 6, after which the third group joined, is there


def test_a_training_that_was_broken_off_goes_on_in_its_phase(tmp_path: Path) -> None:
    def made(name: str) -> training.ScoringTrainer:
        return trainer_of("bert", Gradual("epoch", 2.6), tmp_path / name, save=True, num_train_epochs=4)

    whole = made("whole")
    training.fit(whole, tmp_path / "whole")
    broken = made("broken")  # which seeds anew
    broken.add_callback(BreakOff(BROKEN_AT))
    with pytest.raises(KeyboardInterrupt):
        training.fit(broken, tmp_path / "broken")
    again = made("broken")
    training.fit(again, tmp_path / "broken")
    assert [entry["step"] for entry in _told(tmp_path / "whole")] == [0, 3, 6, 9]
    assert _told(tmp_path / "broken") == _told(tmp_path / "whole")
    expected = whole.model.state_dict()
    for name, weight in again.model.state_dict().items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.slow
def test_a_killed_run_resumes_in_its_phase_and_ends_as_an_unbroken_one(tiny: Words) -> None:
    words = tiny("bert", "method=gradual", "train.num_train_epochs=5", "train.bf16=false")
    (folder,) = commands.finetune(*words)
    weights, log = load_file(folder / "model" / "model.safetensors"), _told(folder)
    assert [entry["step"] for entry in log] == [0, 3, 6, 9]
    with broken_off(BROKEN_AT):
        commands.finetune(*words, "force=true")
    assert [path.name for path in (folder / "checkpoints").glob("checkpoint-*")] == ["checkpoint-6"]
    commands.finetune(*words)
    assert _told(folder) == log
    for name, weight in load_file(folder / "model" / "model.safetensors").items():
        assert torch.equal(weight, weights[name]), name


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    train_here(tmp_path / "1.safetensors", 4)
    assert run_two(lambda _: train_here(tmp_path / "2.safetensors", 2)) == [0, 0]
    found = load_file(tmp_path / "2.safetensors")
    for name, weight in load_file(tmp_path / "1.safetensors").items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-5)


def train_here(file: Path, size: int) -> None:
    """Train as one of some processes, with so many rows each, and save what came of it."""
    from safetensors.torch import save_file

    settings = {"per_device_train_batch_size": size, "train_sampling_strategy": "sequential", "optim": "sgd"}
    trainer = trainer_of(
        "gpt2",
        Gradual(every=2, decay=2.6),
        file.parent,
        num_train_epochs=4,
        activation_checkpointing=True,
        **settings,
    )
    assert trainer.args.world_size * size == 4
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer.train()
    if trainer.is_world_process_zero():
        save_file({name: weight.detach() for name, weight in trainer.model.named_parameters()}, file)


@pytest.mark.slow
def test_the_cost_is_of_all_weights(tiny: Words) -> None:
    (folder,) = commands.finetune(*tiny("t5", "method=gradual"))
    costs = json.loads((folder / "result.json").read_text())["costs"]
    assert costs["trainable_params"] == costs["total_params"]


def _told(folder: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry for entry in entries if "unfrozen" in entry]
