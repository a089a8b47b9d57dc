"""The predicted memory of a step: what operations hold at their peak, by the trainer's own loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import commands
from transformers import GPT2Config, GPT2LMHeadModel

from peftkit.compat.memory import AllocatedMemory
from peftkit.jobs import plan
from peftkit.pipeline.memory import TrainingStep, predict_memory
from peftkit.training import ScoringTrainer, training_arguments

Overrides = Callable[..., list[str]]
VOCABULARY, BATCH, TOKENS = 30_000, 4, 16


def test_allocations_are_counted_until_they_are_freed() -> None:
    weight = torch.ones(100, 100, requires_grad=True)  # 40 kB
    with AllocatedMemory([weight]) as memory:
        product = weight @ weight.t()  # a view of the weight counts nothing
        assert memory.bytes == 40_000
        loss = product.exp().sum()  # exp is saved for backward
        assert 80_000 <= memory.bytes <= 80_100
        del product
        assert 40_000 <= memory.bytes <= 40_100
        loss.backward()
    assert weight.grad is not None
    assert 120_000 <= memory.peak <= 120_100  # the product's gradient, and those of both uses of the weight
    del loss
    assert memory.bytes == 40_000  # of the gradient


@pytest.mark.parametrize("bf16", [False, True])
def test_the_loss_over_a_large_vocabulary_is_counted(bf16: bool) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=TOKENS, n_embd=2, n_layer=1, n_head=1))
    arguments = training_arguments({"bf16": bf16, "use_cpu": True}, seed=0)
    trainer = ScoringTrainer(model=model, args=arguments, reader=lambda model, batch: model(**batch).logits)
    batch = [{"input_ids": each, "labels": each} for each in torch.randint(VOCABULARY, (BATCH, TOKENS))]
    found = predict_memory(TrainingStep(trainer), batch, [*batch, *batch], before=None)
    logits = BATCH * TOKENS * VOCABULARY * 4
    # log-probabilities, the gradients of the loss and of the logits; in bf16 also a copy of half the size
    assert 3 * logits <= found.step <= 4.2 * logits
    assert 2 * logits <= found.evaluation <= 5.2 * logits  # of twice as many examples, with the loss
    assert found.optimizer == pytest.approx(2 * found.weights, rel=0.01)
    assert found.weights == sum(weight.nbytes for weight in model.parameters())


@pytest.mark.parametrize(("optimizer", "states"), [("sgd", 0), ("adafactor", 0.2), ("adamw_torch", 2)])
def test_the_states_of_the_chosen_optimizer_are_counted(optimizer: str, states: float) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=500, n_positions=TOKENS, n_embd=64, n_layer=1, n_head=1))
    arguments = training_arguments({"bf16": False, "use_cpu": True, "optim": optimizer}, seed=0)
    trainer = ScoringTrainer(model=model, args=arguments, reader=lambda model, batch: model(**batch).logits)
    batch = [{"input_ids": each, "labels": each} for each in torch.randint(500, (BATCH, TOKENS))]
    found = predict_memory(TrainingStep(trainer), batch, [], before=None)
    assert found.optimizer == pytest.approx(states * found.weights, rel=0.01, abs=0.2 * found.weights)


def test_what_the_trainer_holds_is_predicted(tiny: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "memory_of_imports", lambda: None)  # so that tensors are counted, exactly
    lines = '{{"prompt": "the film {0}", "chosen": "was good {0}", "rejected": "was bad {0}"}}\n'
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(lines.format(number) for number in range(30)))
    own = [f"task.dataset={file}", "task.max_target_length=16"]
    instructions = ["task=instructions", *own, "task.text=[prompt]", "task.label=chosen"]
    plans = {
        name: plan.make_plan(commands.choose(["job=plan", *tiny("smollm2", "method=lora", *more)])[0]).memory
        for name, more in {
            "once": instructions,
            "accumulated": [*instructions, "train.gradient_accumulation_steps=2"],
            "preferences": ["task=preferences", *own],
            "untrained": ["task=sst2", "method=zero_shot"],
        }.items()
    }
    gradients = plans["once"].optimizer // 2
    assert plans["once"].step + 0.5 * gradients < plans["accumulated"].step <= plans["once"].step + gradients
    assert plans["preferences"].step > gradients
    assert plans["untrained"].optimizer == 0 < plans["untrained"].step
    assert all(found.evaluation for found in plans.values())


def test_the_largest_batch_of_a_token_budget_is_smaller(
    tiny: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "memory_of_imports", lambda: None)
    file = tmp_path / "texts.jsonl"
    texts = ["the film " * (30 if number % 8 == 0 else 1 + number % 3) + f"{number}" for number in range(64)]
    file.write_text("".join(f'{{"text": "{text}", "label": {n % 2}}}\n' for n, text in enumerate(texts)))
    own = ["task=classification", f"task.dataset={file}", "task.text=[text]", "task.label=label", "method=full"]
    own += ["task.max_train_samples=null", "train.per_device_train_batch_size=8"]
    grouped, budget = (
        plan.make_plan(commands.choose(["job=plan", *tiny("bert", *own, f"train.train_sampling_strategy={name}")])[0])
        for name in ("group_by_length", "token_budget")
    )
    assert budget.steps == grouped.steps and budget.examples == grouped.examples
    assert budget.memory.step - budget.parameters.trainable * 4 < 0.6 * (
        grouped.memory.step - grouped.parameters.trainable * 4
    )
