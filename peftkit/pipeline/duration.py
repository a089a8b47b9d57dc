"""Estimation of the duration of a run from a few training steps and predictions."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from peftkit.config import RunConfig
from peftkit.data.datasets import TaskDataset
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import predict_encoded, predictor
from peftkit.pipeline.measures import MAX_PASSAGES
from peftkit.pipeline.memory import TrainingStep

ENOUGH = 10.0  # seconds of training steps, after which no further batch is tried
QUANTILES = (0.5, 1 / 6, 5 / 6)  # of the batches by their number of tokens
GENERATED = 8  # examples whose answers are generated


@dataclass(frozen=True)
class Duration:
    """Estimated seconds of a run, and of the trials of a search before it.

    Not included are export and verification of the artifact, measuring its latency, and the answers of a teacher.
    """

    loading: float  # data, model, and tokenizing the training examples
    training: float
    evaluation: float  # with the encoding and scoring, or generation, of validation examples
    trials: float = 0.0

    @property
    def total(self) -> float:
        return self.loading + self.training + self.evaluation + self.trials


def estimate_training(
    step: TrainingStep, examples: Any, lengths: Sequence[int] | np.ndarray, batches: Sequence[np.ndarray], steps: int
) -> float:
    """Return the seconds of a number of optimizer steps: of three batches of different size, and of an update.

    Args:
        batches: the indices of the examples of each batch of an epoch.
    """
    if not step.is_trained or not steps:
        return 0.0
    batches = sorted(batches, key=lambda batch: len(batch) * max(lengths[index] for index in batch))
    passes: list[float] = []
    update = 0.0
    for quantile in QUANTILES:
        batch = [examples[int(index)] for index in batches[int(quantile * len(batches))]]
        passes.append(_seconds(lambda batch=batch: step.pass_through(step.collate(batch))))  # type: ignore[misc]
        update = _seconds(step.update)
        if sum(passes) + len(passes) * update > ENOUGH:
            break
    return steps * (step.trainer.args.gradient_accumulation_steps * float(np.mean(passes)) + update)


def estimate_duration(
    config: RunConfig,
    bundle: TrainingBundle,
    data: TaskDataset,
    holdout: int,
    loading: float,
    training: float,
    rounds: Sequence[tuple[int, float]],
) -> Duration:
    """Return the duration of a run, and under `trials` that of all trials of a search.

    Args:
        holdout: number of examples that are scored after each epoch.
        loading, training: seconds.
        rounds: numbers of trials, and their shares of the epochs.
    """
    train, epochs = config.task.splits["train"], float(config.train["num_train_epochs"])
    tables = [table for name, table in data.splits.items() if name != train]  # of a fold, its own examples
    validation = sum(map(len, tables))
    scored = validation + epochs * holdout
    if config.task.kind == "preferences":  # by the reference
        scored += validation + len(data.splits[train])
    if config.task.kind == "language_modeling":  # before and after training, with a general text
        scored += validation + 2 * MAX_PASSAGES
    seconds = _score_seconds(config, bundle, tables)
    scoring = seconds * config.search.samples
    trials = sum(count * (loading + share * training + scoring * (1 + share * epochs)) for count, share in rounds)
    return Duration(loading, training, seconds * scored, trials)


def _score_seconds(config: RunConfig, bundle: TrainingBundle, tables: Sequence[Dataset]) -> float:
    """Return the seconds to encode and score an example, and to generate its answer where the task has generated ones.

    An untrained model often generates to the length limit, so that this is an upper bound.
    """
    number = config.train["per_device_eval_batch_size"] if bundle.format.max_new_tokens is None else GENERATED
    trainer, seconds, count = predictor(config, bundle), 0.0, 0
    for table in tables:
        chosen = np.unique(np.linspace(0, len(table) - 1, min(number, len(table))).astype(int))
        sample = table.select(chosen)
        started = time.perf_counter()
        predict_encoded(bundle, trainer, bundle.format.encode(sample))
        seconds, count = seconds + time.perf_counter() - started, count + len(sample)
    return seconds / max(count, 1)


def _seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
