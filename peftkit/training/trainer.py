"""HF's Trainer on Accelerate, the one training loop of every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainingArguments

from peftkit.compat.trainer import SamplerTrainer
from peftkit.training.callbacks import (
    JsonLogCallback,
    ProgressBarCallback,
    RankAllocationCallback,
    Schedule,
    ScheduleCallback,
    SetEpochCallback,
)

ModelFunction = Callable[[nn.Module, dict[str, Any]], torch.Tensor]  # of a model and a batch: scores, or a loss


class ScoringTrainer(SamplerTrainer):
    """HF's Trainer whose order of examples depends on (seed, epoch) alone, so that a resumed run repeats it.

    It predicts what `reader` computes from the model, and minimizes `loss` or, without one, the model's own loss.
    """

    def __init__(
        self,
        *args: Any,
        reader: ModelFunction,
        train_sampler: Sampler | None = None,
        rates: Mapping[str, float] | None = None,
        loss: ModelFunction | None = None,
        **kwargs: Any,
    ) -> None:
        self.reader, self.train_sampler, self.rates, self.loss = reader, train_sampler, rates, loss
        super().__init__(*args, **kwargs)
        if loss is not None or not self.loss_shifts_labels:
            # such a loss is a mean over its batch, which gradient accumulation has to divide; many models accept any
            # keyword, which transformers takes for a loss that is divided already
            self.model_accepts_loss_kwargs = False

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Give each weight its share of the learning rate; weights that are frozen for now are included."""
        if self.rates is not None and self.optimizer is None:
            module = self.model if model is None else model
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, module)
            groups = _parameter_groups(module, self.rates, set(self.get_decay_parameter_names(module)), self.args)
            self.optimizer_cls_and_kwargs = kind, {**settings, "params": groups}
        return super().create_optimizer(model)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(model, inputs, *args, **kwargs) if self.loss is None else self.loss(model, inputs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        with torch.no_grad(), self.compute_loss_context_manager():
            scores = self.reader(model, self.prepare_inputs(inputs)).float()
        return None, scores, scores.new_zeros(len(scores))  # the labels are not used: the caller has them


@dataclass(frozen=True)
class TrainerSetup:
    """What a trainer is made of; without `train` it only predicts."""

    model: nn.Module
    arguments: TrainingArguments
    collate: Callable
    reader: ModelFunction
    train: Dataset | None = None
    holdout: Dataset | None = None
    sampler: Sampler | None = None
    score: Callable[[np.ndarray], dict[str, float]] | None = None  # of what `reader` returns on the holdout
    patience: int | None = None  # epochs without a better score, until training stops
    log_file: Path | None = None
    schedule: Schedule | None = None
    loss: ModelFunction | None = None
    make: Callable[..., ScoringTrainer] = ScoringTrainer  # the class, or a factory with the same arguments


def make_trainer(setup: TrainerSetup) -> ScoringTrainer:
    """Build the trainer and add its callbacks."""
    score, schedule, train = setup.score, setup.schedule, setup.train
    trainer = setup.make(
        model=setup.model,
        args=setup.arguments,
        data_collator=setup.collate,
        train_dataset=train,
        eval_dataset=setup.holdout,
        compute_metrics=None if score is None else lambda evaluation: score(scores_of(evaluation.predictions)),
        callbacks=[] if setup.patience is None else [EarlyStoppingCallback(setup.patience)],
        reader=setup.reader,
        train_sampler=setup.sampler,
        rates=None if schedule is None else schedule.rates,
        loss=setup.loss,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if not setup.arguments.disable_tqdm:
        trainer.add_callback(ProgressBarCallback)
    if setup.log_file is not None:
        trainer.add_callback(JsonLogCallback(setup.log_file))
    if train is not None and is_adalora(setup.model):
        trainer.add_callback(RankAllocationCallback(setup.model.base_model))
    if hasattr(train, "epoch"):
        trainer.add_callback(SetEpochCallback(train))
    if schedule is not None:
        trainer.add_callback(ScheduleCallback(schedule, trainer.log))
    return trainer


def is_adalora(model: Any) -> bool:
    """Return whether AdaLoRA reallocates the model's ranks while it trains."""
    return hasattr(getattr(model, "base_model", None), "update_and_allocate")


def scores_of(predictions: Any) -> np.ndarray:
    """Return the scores alone where a prediction holds more."""
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)


def _parameter_groups(
    model: nn.Module, rates: Mapping[str, float], decaying: set[str], arguments: TrainingArguments
) -> list[dict[str, Any]]:
    """Return groups of weights of one rate and one weight decay, in the order of the rates."""
    weights = dict(model.named_parameters())
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, rate in rates.items():
        groups.setdefault((rate, name in decaying), []).append(weights[name])
    return [
        {
            "params": members,
            "lr": arguments.learning_rate * rate,
            "weight_decay": arguments.weight_decay if decays else 0.0,
        }
        for (rate, decays), members in groups.items()
    ]
