"""Training of one model on several tasks: its loss, and the score that selects the best epoch."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from peftkit.config import Refusal
from peftkit.training.micro_batches import sizes_of
from peftkit.training.trainer import ModelFunction, ScoringTrainer

Batch = Mapping[int, dict[str, Any]]  # of a mixed batch, each task's part by the task's number


class MultiTaskModel(nn.Module):
    """Complete models of several tasks, which share parameters; each of these has one name in `named_parameters`.

    Args:
        views: the model of each task, with its head.
        losses: functions of a task's model and batch that return the mean loss of the batch.
        weights: (tasks,) factors of the losses.
    """

    def __init__(self, views: Sequence[nn.Module], losses: Sequence[ModelFunction], weights: Sequence[float]) -> None:
        super().__init__()
        self.views, self.losses, self.weights = nn.ModuleList(views), list(losses), list(weights)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the loss of a batch: the sum over its tasks t of n_t / n * w_t * L_t.

        n_t of the n examples of the batch are of task t, w_t is the weight of the task and L_t the mean loss of its
        part. So each example has the weight of its task, whatever the other examples of its batch are; of a batch with
        one task it is w_t * L_t.
        """
        counts = {task: number_of_examples(part) for task, part in batch.items()}
        total = sum(counts.values())
        losses = [
            self.losses[task](self.views[task], part) * (self.weights[task] * counts[task] / total)
            for task, part in batch.items()
        ]
        return torch.stack(losses).sum()

    @property
    def config(self) -> PretrainedConfig:
        """The config of the first task's model."""
        return self.views[0].config  # type: ignore[return-value]

    def get_input_embeddings(self) -> nn.Module:
        """Return the embeddings of tokens, which all tasks share."""
        return self.views[0].get_input_embeddings()  # type: ignore[operator,no-any-return]

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """Compute the activations of all tasks' layers again in the backward pass."""
        for view in self.views:
            view.activation_checkpointing_enable(**settings)  # type: ignore[operator]


def model_loss(model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
    """Return the loss that a model of transformers computes itself, the mean over its batch."""
    return model(**batch).loss  # type: ignore[no-any-return]


def number_of_examples(part: dict[str, Any]) -> int:
    return max(sizes_of(part))


class MultiTaskTrainer(ScoringTrainer):
    """A trainer of a `MultiTaskModel` that evaluates the mean of the tasks' scores.

    Args:
        scores: functions that return the score of each task on its held-out examples, by the task's name.
    """

    def __init__(self, *, scores: Mapping[str, Callable[[], float]] | None = None, **settings: Any) -> None:
        self.scores = scores or {}
        super().__init__(loss=_loss_of, eval_dataset=[0], **settings)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Log and return the mean of the tasks' scores, and each of them."""
        started = time.perf_counter()
        found = {name: score() for name, score in self.scores.items()}
        metrics = {"eval_score": fmean(found.values())}
        metrics |= {f"eval_score_{name}": score for name, score in found.items()}
        metrics["eval_runtime"] = time.perf_counter() - started
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _terms(self, batch: Mapping[Any, Any]) -> torch.Tensor:
        """Return the number of examples: a step over several batches has the gradient of one large batch."""
        return torch.tensor(sum(map(number_of_examples, batch.values())))

    def _halve(self, model: nn.Module, inputs: dict[Any, Any]) -> None:
        size = self.args.per_device_train_batch_size
        fix = f"train.per_device_train_batch_size={max(size // 2, 1)}"
        message = f"out of memory in training with batches of {size}, which are not divided with tasks=; set {fix}"
        raise MemoryError(Refusal(message, fix))


def _loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    return model(batch)  # type: ignore[no-any-return]
