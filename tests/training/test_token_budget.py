"""Batches of equal numbers of tokens: an update is that of its examples one by one, and an interrupted run repeats it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.interruption import BreakOff
from helpers.two_processes import run_two
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from peftkit import training
from peftkit.data.samplers import TokenBudgetSampler
from peftkit.training.outputs import OutputReader

RATE, COUNT, SEED = 0.1, 24, 1
KINDS = ("classes", "numbers", "tokens", "texts")


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "texts":
        t5 = T5Config(
            vocab_size=50, d_model=16, d_kv=8, num_layers=1, num_heads=2, d_ff=16, decoder_start_token_id=0,
            dropout_rate=0.0,
        )  # fmt: skip
        return T5ForConditionalGeneration(t5)
    bert = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=1 if kind == "numbers" else 3,
    )  # fmt: skip
    return (BertForTokenClassification if kind == "tokens" else BertForSequenceClassification)(bert)


def examples(kind: str) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    found = []
    for length in random.integers(2, 20, COUNT).tolist():
        labels = {
            "classes": int(random.integers(3)),
            "numbers": float(random.normal()),
            "tokens": random.choice([-100, 0, 1, 2], length).tolist(),
            "texts": random.integers(3, 50, length // 2 + 1).tolist(),
        }[kind]
        found.append({"input_ids": random.integers(3, 50, length).tolist(), "labels": labels})
    return found


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {
        "input_ids": torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows]),
        "attention_mask": torch.tensor([[n < len(row["input_ids"]) for n in range(longest)] for row in rows]).long(),
    }
    labels = [row["labels"] for row in rows]
    if isinstance(labels[0], list):
        widest = max(map(len, labels))
        labels = [each + [-100] * (widest - len(each)) for each in labels]
    return batch | {"labels": torch.tensor(labels)}


def trainer(kind: str, folder: Path, processes: int = 1, rank: int = 0, **settings: Any) -> training.ScoringTrainer:
    rows = examples(kind)
    arguments = training.training_arguments(
        {
            "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "optim": "sgd", "learning_rate": RATE,
            "max_grad_norm": 0.0, "bf16": False, "lr_scheduler_type": "constant", "disable_tqdm": True, **settings,
        },
        0, folder,
    )  # fmt: skip
    lengths = [len(row["input_ids"]) for row in rows]
    return training.ScoringTrainer(
        model=model_of(kind), args=arguments, data_collator=collate, train_dataset=Dataset.from_list(rows),
        reader=OutputReader("logits"),
        train_sampler=TokenBudgetSampler(lengths, 3, seed=SEED, processes=processes, rank=rank),
    )  # fmt: skip


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def by_hand(kind: str, batches: int) -> dict[str, torch.Tensor]:
    """Return the weights after a step of SGD on the mean over the first batches, whose examples are passed one by one."""
    rows, model = examples(kind), model_of(kind).train()
    first = TokenBudgetSampler([len(row["input_ids"]) for row in rows], 3, seed=SEED).batches(0)[:batches]
    assert len({*map(len, first)}) > 1  # so that the mean of the batches' means would differ
    chosen = [rows[index] for batch in first for index in batch]
    terms = [int((torch.tensor(row["labels"]) != -100).sum()) for row in chosen]
    for row, count in zip(chosen, terms, strict=True):
        if count:
            (model(**collate([row])).loss * count / sum(terms)).backward()
    return {
        name: weight.detach() - RATE * weight.grad
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def check_update(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, weight in expected.items():
        torch.testing.assert_close(
            found[name], weight, atol=1e-6, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_is_that_of_its_examples_one_by_one(tmp_path: Path, kind: str) -> None:
    own = trainer(kind, tmp_path, max_steps=1)
    before = weights(own.model)
    training.fit(own, tmp_path)
    found, expected = weights(own.model), by_hand(kind, 2)
    check_update(found, expected)
    assert max(float((found[name] - before[name]).abs().max()) for name in expected) > 1e-3
    (entry,) = (each for each in own.state.log_history if "train_loss" in each)
    assert np.isfinite(entry["train_loss"])


@pytest.mark.parametrize("step", [2, 5])  # of 4 an epoch
def test_an_interrupted_run_goes_on_with_the_same_batches(tmp_path: Path, step: int) -> None:
    whole = trainer("classes", tmp_path / "whole", num_train_epochs=2)
    training.fit(whole, tmp_path / "whole")
    assert whole.state.global_step == 8
    settings = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1}
    broken = trainer("classes", tmp_path / "broken", **settings)
    broken.add_callback(BreakOff(step))
    with pytest.raises(KeyboardInterrupt):
        training.fit(broken, tmp_path / "broken")
    resumed = trainer("classes", tmp_path / "broken", **settings)
    training.fit(resumed, tmp_path / "broken")
    for name, weight in weights(whole.model).items():
        assert torch.equal(weights(resumed.model)[name], weight), name


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume(tmp_path: Path) -> None:
    def run(steps: int, name: str) -> dict[str, torch.Tensor]:
        def train(rank: int) -> None:
            settings = {"gradient_accumulation_steps": 1, "num_train_epochs": 2, "max_steps": steps}
            one = trainer("tokens", tmp_path / name, 2, rank, **settings, save_strategy="steps", save_steps=1)
            training.fit(one, tmp_path / name)
            if rank == 0:
                torch.save(weights(one.model), tmp_path / name / "weights.pt")

        assert run_two(train) == [0, 0]
        return torch.load(tmp_path / name / "weights.pt")  # type: ignore[no-any-return]

    check_update(run(1, "first"), by_hand("tokens", 2))
    run(6, "parts")  # in the second epoch of 4 steps
    whole, resumed = run(8, "whole"), run(8, "parts")
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, msg=name)
