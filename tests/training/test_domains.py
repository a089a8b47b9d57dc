"""Objectives over domains equal the formulas of their papers, also over accumulated batches and processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.two_processes import run_two
from torch import nn
from transformers import default_data_collator

from peftkit import training
from peftkit.training.domains import (
    CLASSIFIER_RATE,
    DomainAdversarialLoss,
    DomainConfusionLoss,
    GroupDROLoss,
    ReverseGradient,
    example_losses,
    reversal_factor,
)

DOMAINS = torch.tensor([0, 1, 2, 0, 0, 1, 2, 2, 1, 0, 0, 1])
LABELS = torch.tensor([0, 1, 1, 0, -1, 1, -1, 0, 1, 0, -1, 1])  # of the unlabeled ones -1
NAMES = ["a", "b", "c"]
STEP_SIZE = 0.5


class Tokens(nn.Module):
    """A backbone of one layer over embedded tokens, and a head that reads their first state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base_model = nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 5))
        self.base_model.register_forward_hook(lambda module, given, output: (output,))
        self.head = nn.Linear(5, 2)
        self.config, self.device = SimpleNamespace(is_encoder_decoder=False), torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.base_model(input_ids)[0][:, 0]))


def batch(rows: slice | torch.Tensor = slice(None)) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 20, (len(LABELS), 4), generator=torch.Generator().manual_seed(1))
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": LABELS, "domain": DOMAINS}
    return {name: values[rows] for name, values in found.items()}


def adversarial() -> DomainAdversarialLoss:
    torch.manual_seed(3)
    return DomainAdversarialLoss(NAMES, 5, "cls", max_lambda=1.0)


def trained(folder: Path, loss: Any, size: int, accumulated: int, steps: int = 1) -> tuple[Tokens, Any]:
    """Return the model, and the objective, after steps of SGD on all examples."""
    arguments = training.training_arguments(
        {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_steps": steps,
         "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "weight_decay": 0.0, "bf16": False,
         "lr_scheduler_type": "constant", "disable_tqdm": True, "report_to": "none", "save_strategy": "no",
         "train_sampling_strategy": "sequential"},
        0, folder,
    )  # fmt: skip
    model = Tokens()
    if isinstance(loss, DomainAdversarialLoss):
        loss.attach(model)
    rows = Dataset.from_dict({name: values.tolist() for name, values in batch().items()})
    sampler = None
    if arguments.world_size > 1:
        from peftkit.data.samplers import SharedBatches

        order: Any = torch.utils.data.SequentialSampler(rows)  # type: ignore[arg-type]
        sampler = SharedBatches(order, size, arguments.world_size, arguments.process_index, False)
    trainer = training.ScoringTrainer(
        model=model, args=arguments, data_collator=default_data_collator, train_dataset=rows, loss=loss,
        reader=lambda model, inputs: model(**inputs).logits, train_sampler=sampler,
    )  # fmt: skip
    trainer.train()
    return model, loss


def loss_by_hand(model: Tokens, classifier: nn.Module, factor: float) -> dict[str, torch.Tensor]:
    """Return the gradients of the saddle point (Ganin et al. 2016, equations 13 to 15), from two separate losses."""
    rows = batch()
    state = model.base_model(rows["input_ids"])[0][:, 0]
    known = LABELS >= 0
    task = nn.functional.cross_entropy(model.head(state)[known], LABELS[known])
    domain = nn.functional.cross_entropy(classifier(state), DOMAINS)
    base, head, own = list(model.base_model.parameters()), list(model.head.parameters()), list(classifier.parameters())
    of_task = torch.autograd.grad(task, [*base, *head], retain_graph=True)
    of_domain = torch.autograd.grad(domain, [*base, *own])
    found = {f"base {n}": a - factor * b for n, (a, b) in enumerate(zip(of_task[: len(base)], of_domain, strict=False))}
    found |= {f"head {n}": each for n, each in enumerate(of_task[len(base) :])}
    return found | {f"own {n}": each for n, each in enumerate(of_domain[len(base) :])}


def gradients(model: Tokens, classifier: nn.Module) -> dict[str, torch.Tensor]:
    parts = {"base": model.base_model, "head": model.head, "own": classifier}
    return {f"{name} {n}": weight.grad for name, part in parts.items() for n, weight in enumerate(part.parameters())}  # type: ignore[misc]


def test_the_reversed_gradient_is_minus_lambda_times_the_plain_one() -> None:
    features = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, 3, dtype=torch.float64)
    plain = torch.autograd.grad((features @ weights).exp().sum(), features)[0]
    for factor in (0.0, 0.3, 1.0):
        output = ReverseGradient.apply(features, factor)
        assert torch.equal(output, features)
        found = torch.autograd.grad((output @ weights).exp().sum(), features)[0]
        torch.testing.assert_close(found, -factor * plain, rtol=0, atol=0)


def test_lambda_follows_the_schedule_of_the_paper() -> None:
    expected = {0.0: 0.0, 0.1: 2 / (1 + math.exp(-1)) - 1, 1.0: 0.9999092}
    assert {p: reversal_factor(p) for p in expected} == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_the_adversarial_gradients_are_those_of_the_saddle_point(progress: float) -> None:
    loss, model = adversarial(), Tokens()
    loss.progress, loss.max_lambda = progress, 0.5
    expected = loss_by_hand(model, loss.classifier, 0.5 * reversal_factor(progress))
    loss.combined(loss(model, batch())).backward()
    for name, found in gradients(model, loss.classifier).items():
        torch.testing.assert_close(found, expected[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_the_features_descend_the_confusion_and_the_classifier_its_loss(progress: float) -> None:
    torch.manual_seed(3)
    loss, model = DomainConfusionLoss(NAMES, 5, "cls", max_lambda=0.5), Tokens()
    loss.progress, rows = progress, batch()
    state = model.base_model(rows["input_ids"])[0][:, 0]
    known = LABELS >= 0
    task = nn.functional.cross_entropy(model.head(state)[known], LABELS[known])
    scores = loss.classifier(state)
    uniform = torch.full_like(scores, 1 / len(NAMES))
    of_base = task + 0.5 * reversal_factor(progress) * nn.functional.cross_entropy(scores, uniform)
    parts = {"base": (of_base, model.base_model), "head": (task, model.head)}
    parts["own"] = (nn.functional.cross_entropy(scores, DOMAINS), loss.classifier)
    expected = {
        f"{name} {number}": each
        for name, (value, part) in parts.items()
        for number, each in enumerate(torch.autograd.grad(value, [*part.parameters()], retain_graph=True))
    }
    loss.combined(loss(model, rows)).backward()
    for name, found in gradients(model, loss.classifier).items():
        torch.testing.assert_close(found, expected[name], rtol=0, atol=1e-6, msg=name)


def sgd(model: Tokens, loss: DomainAdversarialLoss) -> dict[str, torch.Tensor]:
    """Return the weights after a step at the start of training, where lambda is 0."""
    changes = loss_by_hand(model, loss.classifier, 0.0)
    parts = {"base": model.base_model, "head": model.head, "own": loss.classifier}
    rates = {"base": 0.1, "head": 0.1, "own": CLASSIFIER_RATE}
    return {
        f"{name} {n}": weight.detach() - rates[name] * changes[f"{name} {n}"]
        for name, part in parts.items()
        for n, weight in enumerate(part.parameters())
    }


def check_step(folder: Path, size: int, accumulated: int) -> None:
    expected = sgd(Tokens(), adversarial())
    model, loss = trained(folder, adversarial(), size, accumulated)
    parts = {"base": model.base_model, "head": model.head, "own": loss.classifier}
    for name, part in parts.items():
        for n, weight in enumerate(part.parameters()):
            torch.testing.assert_close(weight.detach(), expected[f"{name} {n}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "accumulated"), [(12, 1), (4, 3), (5, 3)])
def test_accumulated_batches_take_the_adversarial_step_of_one(tmp_path: Path, size: int, accumulated: int) -> None:
    check_step(tmp_path, size, accumulated)


def weights_by_hand(steps: int, size: int) -> tuple[list[float], list[torch.Tensor]]:
    """Return the weights of the domains, and of the model, after steps of algorithm 1 of Sagawa et al. 2020."""
    model, q = Tokens(), np.full(3, 1 / 3)
    for step in range(steps):
        rows = batch(slice(step * size, (step + 1) * size))
        logits = model(rows["input_ids"], rows["attention_mask"]).logits
        known = rows["labels"] >= 0
        each = nn.functional.cross_entropy(logits[known], rows["labels"][known], reduction="none")
        domains = rows["domain"][known]
        losses = [each[domains == g].mean() if (domains == g).any() else torch.tensor(0.0) for g in range(3)]
        for g in range(3):
            q[g] *= math.exp(STEP_SIZE * losses[g].item())
        q /= q.sum()
        total = sum(float(weight) * loss for weight, loss in zip(q, losses, strict=True))
        own = list(model.parameters())
        for weight, gradient in zip(own, torch.autograd.grad(total, own), strict=True):  # type: ignore[arg-type]
            weight.data -= 0.1 * gradient
    return q.tolist(), [each.detach() for each in model.parameters()]


def check_group_dro(folder: Path, size: int, steps: int, processes: int = 1) -> None:
    expected, weights = weights_by_hand(steps, size * processes)
    model, loss = trained(folder, GroupDROLoss(NAMES, STEP_SIZE), size, 1, steps)
    assert loss.weights.tolist() == pytest.approx(expected, abs=1e-6)
    for found, weight in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(found.detach(), weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "steps"), [(12, 1), (4, 3), (2, 6)])
def test_group_dro_is_the_algorithm_of_the_paper(tmp_path: Path, size: int, steps: int) -> None:
    check_group_dro(tmp_path, size, steps)


@pytest.mark.parametrize(
    "check", [lambda folder: check_step(folder, 2, 3), lambda folder: check_group_dro(folder, 2, 3, 2)]
)
def test_two_processes_train_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[Path], None]
) -> None:
    assert run_two(lambda rank: check(tmp_path)) == [0, 0]


def test_losses_are_those_of_the_heads_of_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 7, 3, generator=generator)
    tags = torch.tensor([[0, 1, 2, -100, 1, -100, 0]] * 4)
    numbers, sets = torch.randn(4, generator=generator), torch.randint(0, 2, (4, 3), generator=generator).float()
    one, few = logits[:, 0, :1], logits[:, 0]
    for given, labels, expected in (
        (logits, tags, nn.CrossEntropyLoss()(logits.reshape(-1, 3), tags.reshape(-1))),
        (few, tags[:, 4], nn.CrossEntropyLoss()(few, tags[:, 4])),
        (one, numbers, nn.MSELoss()(one[:, 0], numbers)),
        (few, sets, nn.BCEWithLogitsLoss()(few, sets)),
    ):
        losses, counts = example_losses(given, labels)
        torch.testing.assert_close(losses.sum() / counts.sum(), expected)
    losses, counts = example_losses(one, torch.tensor([1.0, math.nan, 0.0, math.nan]))
    assert losses[[1, 3]].tolist() == [0, 0] and counts.tolist() == [1, 0, 1, 0]
