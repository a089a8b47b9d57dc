"""Turn a model, its batches and its settings into HF's Trainer on Accelerate, the one loop for every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from peftkit.training.callbacks import AllocateRanks, Follow, LogFile, QuietProgress, Schedule, TellEpoch

Reads = Callable[[nn.Module, dict[str, Any]], torch.Tensor]  # a model and a batch, into a tensor


class ScoringTrainer(Trainer):
    """HF's Trainer with an order of rows that depends on (seed, epoch) alone, so that a resumed run sees the same.

    What it predicts is what `scores` reads from the model; what it lowers is `own_loss`, where the model has none.
    """

    def __init__(
        self,
        *args: Any,
        scores: Reads,
        row_sampler: Sampler | None = None,
        rates: Mapping[str, float] | None = None,
        own_loss: Reads | None = None,
        **kwargs: Any,
    ) -> None:
        self.scores, self.row_sampler, self.rates, self.own_loss = scores, row_sampler, rates, own_loss
        super().__init__(*args, **kwargs)
        if own_loss is not None or not self._loss_shifts_labels:
            # such a loss is a mean over its batch, to be divided where batches add up; many a model takes any argument
            self.model_accepts_loss_kwargs = False

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Give each weight its share of the learning rate; weights that are frozen for now are in it too."""
        if self.rates is not None and self.optimizer is None:
            module = self.model if model is None else model
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, module)
            groups = _parameter_groups(module, self.rates, set(self.get_decay_parameter_names(module)), self.args)
            self.optimizer_cls_and_kwargs = kind, {**settings, "params": groups}
        return super().create_optimizer(model)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return self.row_sampler or super()._get_train_sampler(train_dataset)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        return None if eval_dataset is None else torch.utils.data.SequentialSampler(eval_dataset)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self.own_loss is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        return self.own_loss(model, inputs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            scores = self.scores(model, inputs).float()
        return None, scores, scores.new_zeros(len(scores))  # the labels are no matter here: who asks holds them


def make_trainer(
    model: nn.Module,
    arguments: TrainingArguments,
    collate: Callable,
    scores: Reads,
    train: Dataset | None = None,
    holdout: Dataset | None = None,
    sampler: Sampler | None = None,
    score: Callable[[np.ndarray], dict[str, float]] | None = None,
    patience: int | None = None,
    log: Path | None = None,
    schedule: Schedule | None = None,
    loss: Reads | None = None,
    make: Callable[..., ScoringTrainer] = ScoringTrainer,
) -> ScoringTrainer:
    """Put the parts together; `score` rates what `scores` reads from the model on the holdout.

    `make` is another trainer, or what makes one: it takes what ScoringTrainer takes.
    """
    settings: dict[str, Any] = {
        "model": model,
        "scores": scores,
        "args": arguments,
        "data_collator": collate,
        "train_dataset": train,
        "eval_dataset": holdout,
        "compute_metrics": None if score is None else lambda evaluation: score(first_of(evaluation.predictions)),
        "row_sampler": sampler,
        "rates": None if schedule is None else schedule.rates,
        "own_loss": loss,
        "callbacks": [] if patience is None else [EarlyStoppingCallback(patience)],
    }
    trainer = make(**settings)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if not arguments.disable_tqdm:
        trainer.add_callback(QuietProgress)
    if log is not None:
        trainer.add_callback(LogFile(log))
    if train is not None and is_ada(model):
        trainer.add_callback(AllocateRanks(model.base_model))
    if hasattr(train, "epoch"):
        trainer.add_callback(TellEpoch(train))
    if schedule is not None:
        trainer.add_callback(Follow(schedule, trainer.log))
    return trainer


def is_ada(model: Any) -> bool:
    """Tell whether AdaLoRA moves the model's ranks while it trains."""
    return hasattr(getattr(model, "base_model", None), "update_and_allocate")


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


def first_of(predictions: Any) -> np.ndarray:
    """Return the scores alone where a prediction holds more."""
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)
