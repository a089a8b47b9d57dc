"""Training stops where its numbers are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, default_data_collator

from peftkit import training
from peftkit.training.outputs import OutputReader

COUNT = 11


class OwnLoss:
    """The model's loss, changed by `change` of the number of calls so far."""

    def __init__(self, change: Any) -> None:
        self.change, self.calls, self.sizes = change, 0, []

    def __call__(self, model: torch.nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        self.calls += 1
        self.sizes.append(len(batch["labels"]))
        return self.change(self, model(**batch).loss)  # type: ignore[no-any-return]


def trainer(folder: Path, loss: Any = None, **settings: Any) -> training.ScoringTrainer:
    torch.manual_seed(0)
    bert = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    given = {"per_device_train_batch_size": 4, "learning_rate": 0.01, "bf16": False, "num_train_epochs": 2}
    arguments = training.training_arguments({"disable_tqdm": True, **given, **settings}, 0, folder)
    ids = torch.randint(3, 50, (COUNT, 6), generator=torch.Generator().manual_seed(0)).tolist()
    rows = Dataset.from_dict({"input_ids": ids, "labels": [row % 2 for row in range(COUNT)]})
    return training.ScoringTrainer(
        model=BertForSequenceClassification(bert), args=arguments, data_collator=default_data_collator,
        train_dataset=rows, reader=OutputReader("logits"), loss=loss,
    )  # fmt: skip


def weights(trainer: training.ScoringTrainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path, value: str) -> None:
    own = trainer(tmp_path, OwnLoss(lambda self, loss: loss * (float(value) if self.calls == 3 else 1.0)))
    text = r"training diverged at step 3: loss (nan|inf), gradient norm (nan|inf), learning rate 0.00[0-9]+; "
    with pytest.raises(FloatingPointError, match=text + r"try train.learning_rate=0.001$"):
        training.fit(own, tmp_path)
    assert own.state.global_step == 3 and not [*tmp_path.glob("checkpoint-3*")]


def test_a_gradient_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    def change(self: OwnLoss, loss: torch.Tensor) -> torch.Tensor:
        if self.calls == 2:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    with pytest.raises(FloatingPointError, match=r"step 2: loss 0\.\d+, gradient norm (nan|inf)"):
        training.fit(trainer(tmp_path, OwnLoss(change)), tmp_path)
