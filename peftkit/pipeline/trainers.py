"""Trainers of a bundle: what its scores are, what its loss is, and whose training loop runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, UserError, generates_text
from peftkit.data.formats.instructions import InstructionFormat
from peftkit.models.pooling import Vectors
from peftkit.pipeline.build import TrainingBundle
from peftkit.results.console import log
from peftkit.training import (
    ContrastiveLoss,
    Distillation,
    ScoringTrainer,
    TrainerSetup,
    dpo_trainer,
    make_trainer,
    sft_obstacle,
    sft_trainer,
    training_arguments,
)
from peftkit.training.outputs import OutputReader


def output_reader(bundle: TrainingBundle) -> OutputReader | Vectors:
    """Return what reads a model's scores, of which vectors are one kind."""
    if bundle.format.output_kind == "vectors":
        return Vectors(bundle.model.config.vector_pooling)
    return OutputReader(bundle.format.output_kind, bundle.format.verbalizer_ids)


def own_loss(config: RunConfig, bundle: TrainingBundle) -> ContrastiveLoss | Distillation | None:
    """Return what training lowers where it is not the model's own loss.

    Raises:
        UserError: a width is none of the model's.
    """
    if config.distill.teacher is not None and not generates_text(config.task):
        return Distillation(config.distill.temperature, config.distill.alpha)
    reads, task = output_reader(bundle), bundle.format.task
    if not isinstance(reads, Vectors):
        return None
    assert task.scale is not None  # required for this kind of task
    width, widths = bundle.model.config.hidden_size, task.matryoshka_dims or []
    if widths and max(widths) > width:
        raise UserError(
            f"task.matryoshka_dims={widths}: the model's vectors have {width} dimensions; "
            f"use task.matryoshka_dims=[{width // 4}]"
        )
    return ContrastiveLoss(reads, task.scale, sorted({*widths, width}) if widths else [])


def trainer_factory(config: RunConfig, bundle: TrainingBundle, arguments: Any) -> Callable[..., ScoringTrainer]:
    """Return what makes the trainer: TRL's for preferences, and for instructions to a decoder where its loss fits."""
    task, trains = config.task, any(weight.requires_grad for weight in bundle.model.parameters())
    if task.kind == "preferences":
        assert task.beta is not None and task.loss_type is not None  # required for this kind of task
        return dpo_trainer(bundle.tokenizer, task.beta, task.loss_type, task.label_smoothing or 0.0)
    if not isinstance(bundle.format, InstructionFormat) or not bundle.format.is_decoder or not trains:
        return ScoringTrainer
    if (reason := sft_obstacle(bundle.model, arguments)) is not None:
        log(f"   trained without TRL: {reason}")
    return partial(sft_trainer, bundle.tokenizer)


@contextmanager
def predictor(config: RunConfig, bundle: TrainingBundle) -> Iterator[ScoringTrainer]:
    """Yield a trainer that only predicts, in the precision and batches of the run."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = training_arguments(config.train, config.seed, Path(scratch), select_best=False, save=False)
        yield make_trainer(TrainerSetup(bundle.model, arguments, bundle.format.collator(), output_reader(bundle)))
