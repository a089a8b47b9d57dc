"""Training of a run's model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from peftkit import training
from peftkit.data.collate import LengthGroupedSampler
from peftkit.data.formats import Encoded
from peftkit.data.formats.language_modeling import LanguageModelingFormat
from peftkit.methods import Parameters, count_parameters, fold
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.context import EncodedSplits, RunContext
from peftkit.pipeline.evaluate import answer, holdout_score
from peftkit.pipeline.language_model import bits_per_byte, general_text
from peftkit.pipeline.trainers import output_reader, own_loss, trainer_factory


@dataclass(frozen=True)
class TrainedRun:
    """A trained model with its trainer, and what training cost."""

    trainer: training.ScoringTrainer
    fit: training.TrainingSummary
    parameters: Parameters
    order: np.ndarray  # of the training examples in the first epoch
    texts: dict[str, Encoded] = field(default_factory=dict)  # of language modeling, measured before and after
    bits_before: dict[str, float] = field(default_factory=dict)  # bits per byte of these texts before training


def train(context: RunContext, bundle: TrainingBundle, splits: EncodedSplits) -> TrainedRun:
    """Train from the last checkpoint where there is one; a trial records its score after each epoch under `curve`."""
    config, encoded, holdout = context.config, splits.train, splits.holdout
    patience = config.early_stopping.patience
    arguments = training.training_arguments(
        config.train,
        config.seed,
        context.checkpoints,
        select_best=patience is not None,
        unused_parameters=bundle.schedule is not None,
        evaluate_epochs=config.trial and patience is None,
    )
    sampler = None
    if arguments.train_sampling_strategy == "group_by_length":
        sampler = LengthGroupedSampler(encoded.lengths, arguments.train_batch_size, config.seed)
    setup = training.TrainerSetup(
        bundle.model,
        arguments,
        bundle.format.collator(),
        output_reader(bundle),
        encoded.inputs,
        holdout=None if holdout is None else holdout.inputs,
        sampler=sampler,
        score=None if holdout is None else lambda scores: {"score": holdout_score(config, bundle, scores, holdout)},
        patience=patience,
        log_file=context.folder / "log.jsonl",
        schedule=bundle.schedule,
        loss=own_loss(config, bundle),
        make=trainer_factory(config, bundle, arguments),
    )
    trainer = training.make_trainer(setup)
    texts = {}
    if isinstance(bundle.format, LanguageModelingFormat) and not config.trial:
        held_out = splits.validation[context.first_validation]
        texts = {"held_out": held_out, "general": general_text(bundle, config.task)}
    before = {name: bits_per_byte(answer(bundle, trainer, text)[0]) for name, text in texts.items()}
    if before:
        training.reset_preparation(trainer)
    fit = training.fit(trainer, context.checkpoints)
    if config.trial:
        context.result["curve"] = _curve(fit)
    parameters = count_parameters(bundle.model)
    fold(bundle.model)
    order = np.arange(len(encoded.lengths)) if sampler is None else sampler.order(0)
    return TrainedRun(trainer, fit, parameters, order, texts, before)


def _curve(fit: training.TrainingSummary) -> list[dict[str, float]]:
    """Return the score after each epoch by the seconds of training, without those of evaluation."""
    entries = [entry for entry in fit.history if "eval_score" in entry]
    seconds = fit.seconds - sum(entry["eval_runtime"] for entry in entries)
    return [
        {"epoch": entry["epoch"], "seconds": seconds * entry["epoch"] / fit.epochs, "score": entry["eval_score"]}
        for entry in entries
    ]
