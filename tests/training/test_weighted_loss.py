"""Weighted losses equal those of torch and of a hand-written loop, also over accumulated batches and processes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.two_processes import run_two
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from transformers import default_data_collator

from peftkit import training
from peftkit.data.class_weights import class_weights
from peftkit.data.samplers import LengthGroupedSampler
from peftkit.training.losses import WeightedCrossEntropy

LABELS = torch.tensor([0, 0, 0, 0, 0, 1, 0, 2, 1, 0, 0, 0])
WEIGHTS = torch.tensor([0.5, 2.0, 7.0])


class Classifier(nn.Module):
    """A linear layer over the features of an example."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(5, 3)

    def forward(self, features: torch.Tensor, labels: Any = None) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(features))


def features() -> torch.Tensor:
    return torch.randn(len(LABELS), 5, generator=torch.Generator().manual_seed(1))


def trained(folder: Path, loss: Any, batch: int, accumulated: int) -> torch.Tensor:
    """Return the weights after one step of SGD on all examples."""
    settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated, "max_steps": 1}
    arguments = training.training_arguments(
        {**settings, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "weight_decay": 0.0, "bf16": False,
         "lr_scheduler_type": "constant", "disable_tqdm": True, "report_to": "none", "save_strategy": "no"},
        0, folder,
    )  # fmt: skip
    rows = Dataset.from_dict({"features": features().tolist(), "labels": LABELS.tolist()})
    trainer = training.ScoringTrainer(
        model=Classifier(), args=arguments, data_collator=default_data_collator, train_dataset=rows,
        reader=lambda model, inputs: model(**inputs).logits, loss=loss,
    )  # fmt: skip
    trainer.train()
    return trainer.model.head.weight.detach().clone()


def by_hand(loss: Any) -> torch.Tensor:
    model = Classifier()
    loss(model(features()).logits, LABELS).backward()
    return (model.head.weight - 0.1 * model.head.weight.grad).detach()


def test_weighted_and_smoothed_cross_entropy_is_that_of_torch(tmp_path: Path) -> None:
    for smoothing in (0.0, 0.1):
        loss = WeightedCrossEntropy(WEIGHTS, label_smoothing=smoothing)
        expected = by_hand(nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=smoothing))
        for batch, accumulated in ((12, 1), (4, 3), (1, 12)):
            found = trained(tmp_path, loss, batch, accumulated)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_focal_loss_is_the_formula_of_the_paper() -> None:
    logits = features() @ torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    model = lambda **inputs: SimpleNamespace(logits=logits)  # noqa: E731
    p = [float(row.softmax(-1)[label]) for row, label in zip(logits.double(), LABELS, strict=True)]
    alpha = [float(WEIGHTS[label]) for label in LABELS]
    expected = -sum(a * (1 - q) ** 2 * np.log(q) for a, q in zip(alpha, p, strict=True)) / sum(alpha)
    found = WeightedCrossEntropy(WEIGHTS, gamma=2.0)(model, {"labels": LABELS})
    assert float(found) == pytest.approx(expected, abs=1e-6)
    sure = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    loss = WeightedCrossEntropy(gamma=0.5)(lambda **_: SimpleNamespace(logits=sure), {"labels": LABELS[:1]})
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(sure.grad).all()  # type: ignore[arg-type]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    task: Any = SimpleNamespace(class_weights="balanced", dataset="x.csv")
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS.numpy())
    found = class_weights(task, ["a", "b", "c", "never seen"], LABELS.numpy())
    assert found is not None and [*found.values()] == pytest.approx([*expected, 1.0])


def test_balanced_sampling_draws_each_class_equally_often() -> None:
    labels = np.repeat([0, 1, 2], [9000, 900, 100])
    sampler = LengthGroupedSampler(np.arange(10_000) % 50, 8, seed=0, labels=labels)
    drawn = labels[sampler.order(0)]
    assert len(drawn) == 10_000
    assert np.bincount(drawn) / 10_000 == pytest.approx([1 / 3] * 3, abs=0.02)
    assert (sampler.order(0) == sampler.order(0)).all() and (sampler.order(0) != sampler.order(1)).any()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    def train(rank: int) -> None:
        weight = trained(tmp_path, WeightedCrossEntropy(WEIGHTS), 2, 3)
        if rank == 0:
            torch.save(weight, tmp_path / "weight.pt")

    assert run_two(train) == [0, 0]
    expected = by_hand(nn.CrossEntropyLoss(weight=WEIGHTS))
    torch.testing.assert_close(torch.load(tmp_path / "weight.pt"), expected, rtol=0, atol=1e-6)
