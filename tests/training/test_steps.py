"""Training stops where its numbers are not finite, and computes batches in parts where memory runs out."""

from __future__ import annotations

import re
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


def out_of_memory_above(size: int, error: type[Exception]) -> OwnLoss:
    def change(self: OwnLoss, loss: torch.Tensor) -> torch.Tensor:
        if self.sizes[-1] > size and self.calls > 2:
            raise error("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
        return loss

    return OwnLoss(change)


@pytest.mark.parametrize(
    ("error", "size", "accumulated", "part"),
    [(RuntimeError, 2, 1, 2), (MemoryError, 1, 1, 1), (torch.OutOfMemoryError, 2, 2, 2)],
)
def test_batches_that_do_not_fit_are_computed_in_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: type[Exception], size: int, accumulated: int, part: int
) -> None:
    settings = {"gradient_accumulation_steps": accumulated, "logging_steps": 1}
    whole, parts = (
        trainer(tmp_path / "a", **settings),
        trainer(tmp_path / "b", out_of_memory_above(size, error), **settings),
    )
    for each in (whole, parts):
        training.fit(each, Path(each.args.output_dir))
    assert parts.part_size == part and whole.part_size is None
    assert whole.state.global_step == parts.state.global_step
    logged = [[entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in (whole, parts)]
    torch.testing.assert_close(logged[0], logged[1], atol=1e-6, rtol=1e-5)
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], weight, atol=1e-5, rtol=1e-4, msg=name)
    assert "examples at once: batches are computed in parts of 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "settings", "message"),
    [
        (0, {}, "with 1 example at once, of up to 6 tokens; set task.max_length=3, train.activation_checkpointing="),
        (2, {"splits_batches": False}, "with 3 examples at once; set train.per_device_train_batch_size=2 train.grad"),
        (2, {"depends_on_batch": True}, "with 3 examples at once; set train.per_device_train_batch_size=1, with few"),
    ],
)
def test_what_fits_is_stated_where_parts_do_not_help(
    tmp_path: Path, size: int, settings: dict[str, bool], message: str
) -> None:
    own = trainer(tmp_path, out_of_memory_above(size, MemoryError))
    for name, value in settings.items():
        setattr(own, name, value)
    with pytest.raises(MemoryError, match=re.escape(message)):
        training.fit(own, tmp_path)


def test_another_error_is_not_taken_for_one_of_memory(tmp_path: Path) -> None:
    def change(self: OwnLoss, loss: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the sizes do not match")

    with pytest.raises(RuntimeError, match="the sizes do not match"):
        training.fit(trainer(tmp_path, OwnLoss(change)), tmp_path)


def test_scores_that_need_too_much_memory_fail_with_what_to_type(tmp_path: Path) -> None:
    def reader(model: torch.nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        raise MemoryError

    own = trainer(tmp_path, per_device_eval_batch_size=4)
    own.reader = reader
    message = "out of memory in scoring batches of 4; set train.per_device_eval_batch_size=2"
    with pytest.raises(MemoryError, match=message):
        training.predict_scores(own, own.train_dataset, [6] * COUNT)
