"""Training of a run's model: its loss, its trainer and its costs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler, SequentialSampler
from transformers import TrainerCallback

from peftkit import training
from peftkit.config import RunConfig, UserError, generates_text, kind_of, refusal
from peftkit.config.console import log
from peftkit.config.own_code import instantiate
from peftkit.data.batches import SeededCollator
from peftkit.data.class_weights import class_weights
from peftkit.data.formats import Encoded
from peftkit.data.formats.instructions import InstructionFormat
from peftkit.data.formats.language_modeling import LanguageModelingFormat
from peftkit.data.samplers import LengthGroupedSampler, SharedBatches, TokenBudgetSampler, batches_of, padding_waste
from peftkit.methods import Parameters, count_parameters, replace_prompt_encoders
from peftkit.models.pooling import TextEmbedder
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.domains import domain_objective
from peftkit.pipeline.estimators import fit_estimator
from peftkit.pipeline.evaluate import holdout_score, output_reader, predict_encoded
from peftkit.pipeline.examples import EncodedSplits, RunContext
from peftkit.pipeline.measures import general_text, mean_bits_per_byte

PADDING_ONLY = ("logits", "spans", "embeddings")  # kinds of output of formats whose collators add no other tokens


@dataclass(frozen=True)
class TrainedRun:
    """A trained model with its trainer, and what training cost."""

    trainer: training.ScoringTrainer
    fit: training.TrainingSummary
    parameters: Parameters
    padding_waste: float  # share of padding tokens in the first epoch
    texts: dict[str, Encoded] = field(default_factory=dict)  # of language modeling, scored before and after training
    bits_before: dict[str, float] = field(default_factory=dict)  # bits per byte of the texts before training


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
    sampler = train_sampler(config, encoded, arguments)
    loss = custom_loss(config, bundle, encoded)
    if isinstance(loss, training.DomainAdversarialLoss):
        loss.attach(bundle.model)
    trainer = make_trainer(
        config,
        bundle,
        arguments,
        encoded.inputs,
        eval_dataset=None if holdout is None else holdout.inputs,
        compute_metrics=None
        if holdout is None
        else lambda evaluation: {"score": holdout_score(config, bundle, evaluation.predictions, holdout)},
        train_sampler=shared_order(sampler, encoded, arguments),
        loss=loss,
        patience=patience,
        log_file=context.folder / "log.jsonl",
    )
    add_callbacks(trainer, config)
    texts = {}
    if isinstance(bundle.format, LanguageModelingFormat) and not config.trial:
        held_out = splits.validation[config.task.splits["validation"][0]]
        texts = {"held_out": held_out, "general": general_text(bundle, config.task)}
    before = {name: mean_bits_per_byte(predict_encoded(bundle, trainer, text)[0]) for name, text in texts.items()}
    if before:
        training.reset_preparation(trainer)
    if config.method.traits.estimator:
        fit = fit_estimator(config, bundle, trainer, encoded)
    else:
        fit = training.fit(trainer, context.checkpoints)
    if isinstance(loss, training.DomainAdversarialLoss):
        loss.detach(bundle.model)
    if arguments.world_size > 1:
        from peftkit.compat.fsdp import gather_shards  # takes a moment to import

        gather_shards(bundle.model)
    if config.trial:
        context.result["curve"] = _curve(fit)
    parameters = count_parameters(bundle.model)
    replace_prompt_encoders(bundle.model)
    waste = padding_waste(encoded.lengths, first_batches(sampler, encoded, arguments.train_batch_size))
    return TrainedRun(trainer, fit, parameters, waste, texts, before)


def add_callbacks(trainer: training.ScoringTrainer, config: RunConfig) -> None:
    """Add what chooses the checkpoints of a run to its trainer, and the user's own trackers.

    Raises:
        UserError: a tracker is no callback.
    """
    if "save_strategy" not in config.train and config.early_stopping.patience is None:
        trainer.add_callback(training.SparseCheckpointsCallback())
    for tracker in training.own_trackers(config.train):
        callback = instantiate({"_target_": tracker})
        if not isinstance(callback, TrainerCallback):
            raise UserError(f"train.report_to={tracker}: expected a subclass of transformers.TrainerCallback")
        trainer.add_callback(callback)


def make_trainer(
    config: RunConfig, bundle: TrainingBundle, arguments: Any, examples: Any, **settings: Any
) -> training.ScoringTrainer:
    """Return the trainer of a run's model and encoded training examples."""
    warn_compilation(arguments)
    collate, own = bundle.format.collator(), None
    if config.collator is not None:
        own = SeededCollator(instantiate(config.collator, collate), config.seed)
    trainer = trainer_factory(config, bundle, arguments)(
        model=bundle.model,
        args=arguments,
        data_collator=collate,
        train_collator=own,
        train_dataset=examples,
        reader=output_reader(bundle),
        schedule=bundle.schedule,
        **settings,
    )
    trainer.loraplus_lr_ratio = config.method.loraplus_lr_ratio
    if config.collator is None and bundle.format.output_kind in PADDING_ONLY:
        trainer.added_ids = bundle.tokenizer.all_special_ids
    trainer.splits_batches = bool(config.train.get("auto_find_batch_size", True))
    trainer.depends_on_batch = isinstance(settings.get("loss"), training.ContrastiveLoss | training.GroupDROLoss)
    trainer.chooses_attention = config.model.attn_implementation is None and not config.caches_features
    return trainer


def warn_compilation(arguments: Any) -> None:
    """Log that compiled steps do not pay on a CPU: docs/explanation/training-step.md has the figures."""
    if arguments.torch_compile and arguments.device.type == "cpu":
        log("!! train.torch_compile: on a CPU, compiling takes minutes that its steps do not make up for; drop it")


def train_sampler(
    config: RunConfig, encoded: Encoded, arguments: Any
) -> LengthGroupedSampler | TokenBudgetSampler | None:
    """Return the order of training examples, None for that of HF's Trainer."""
    strategy, labels = arguments.train_sampling_strategy, encoded.labels if config.task.sampling is not None else None
    size, processes, rank = arguments.train_batch_size, arguments.world_size, arguments.process_index
    if strategy == "token_budget":
        return TokenBudgetSampler(encoded.lengths, size, config.seed, labels, processes=processes, rank=rank)
    if strategy != "group_by_length" and labels is None:
        return None
    lengths = encoded.lengths if strategy == "group_by_length" else np.zeros(len(encoded.lengths), dtype=int)
    return LengthGroupedSampler(lengths, size * processes, config.seed, labels)


def shared_order(sampler: Sampler | None, encoded: Encoded, arguments: Any) -> Sampler | None:
    """Return the batches of this process, where there are several; together they have those of a single process."""
    if arguments.world_size == 1 or isinstance(sampler, TokenBudgetSampler):
        return sampler
    if sampler is None and arguments.train_sampling_strategy == "sequential":
        sampler = SequentialSampler(encoded.inputs)
    elif sampler is None:  # that of accelerate for a single process
        sampler = SeedableRandomSampler(encoded.inputs, data_seed=arguments.data_seed)
    size, rank = arguments.train_batch_size, arguments.process_index
    return SharedBatches(sampler, size, arguments.world_size, rank, arguments.dataloader_drop_last)


def first_batches(
    sampler: LengthGroupedSampler | TokenBudgetSampler | None, encoded: Encoded, size: int
) -> list[np.ndarray]:
    """Return the indices of the examples of each batch of the first epoch; without a sampler, in the data's order."""
    if isinstance(sampler, TokenBudgetSampler):
        return sampler.batches(0)
    return batches_of(np.arange(len(encoded.lengths)) if sampler is None else sampler.order(0), size)


def custom_loss(
    config: RunConfig, bundle: TrainingBundle, encoded: Encoded
) -> training.ContrastiveLoss | training.Distillation | training.CountedLoss | None:
    """Return the loss of these training examples that replaces the model's own, or None.

    Raises:
        UserError: task.matryoshka_dims exceeds the dimensions of the embeddings.
    """
    if config.distill.teacher is not None and not generates_text(config.task):
        return training.Distillation(config.distill.temperature, config.distill.alpha)
    if (objective := domain_objective(config, bundle.model, encoded)) is not None:
        return objective
    weights = class_weights(config.task, bundle.format.names, encoded.labels)
    if weights is not None or config.task.focal_gamma is not None:
        tensor = None if weights is None else torch.tensor([*weights.values()])
        gamma = config.task.focal_gamma or 0.0
        if kind_of(config.task).several_labels:
            return training.WeightedBinaryCrossEntropy(tensor, gamma)
        return training.WeightedCrossEntropy(tensor, gamma, config.train.get("label_smoothing_factor") or 0.0)
    reader, task = output_reader(bundle), bundle.format.task
    if not isinstance(reader, TextEmbedder):
        return None
    assert task.scale is not None  # required for this kind of task
    hidden_size, dims = bundle.model.config.hidden_size, task.matryoshka_dims or []
    if max(dims, default=0) > hidden_size:
        wrong = f"task.matryoshka_dims={dims}: the embeddings have {hidden_size} dimensions"
        raise UserError(refusal(wrong, f"task.matryoshka_dims=[{hidden_size // 4}]"))
    return training.ContrastiveLoss(reader, task.scale, sorted({*dims, hidden_size}) if dims else [])


def trainer_factory(
    config: RunConfig, bundle: TrainingBundle, arguments: Any
) -> Callable[..., training.ScoringTrainer]:
    """Return the constructor of the trainer: TRL's for preferences, and for instructions of a decoder if supported."""
    task, is_trained = config.task, any(weight.requires_grad for weight in bundle.model.parameters())
    if bundle.format.output_kind == "preferences":
        own = {"beta": task.beta, "loss_type": [task.loss_type], "label_smoothing": task.label_smoothing or 0.0}
        return partial(training.dpo_trainer, bundle.tokenizer, own)
    if not isinstance(bundle.format, InstructionFormat) or not bundle.format.is_decoder or not is_trained:
        return training.ScoringTrainer
    if (reason := training.sft_unsupported_reason(bundle.model, arguments)) is not None:
        log(f"   trained without TRL: {reason}")
    return partial(training.sft_trainer, bundle.tokenizer)


def _curve(fit: training.TrainingSummary) -> list[dict[str, float]]:
    """Return the score after each epoch and the seconds of training until then, without those of evaluation."""
    entries = [entry for entry in fit.history if "eval_score" in entry]
    seconds = fit.seconds - sum(entry["eval_runtime"] for entry in entries)
    return [
        {"epoch": entry["epoch"], "seconds": seconds * entry["epoch"] / fit.epochs, "score": entry["eval_score"]}
        for entry in entries
    ]


def run_costs(
    trained: TrainedRun, tokens_of_epoch: float, artifact_bytes: int | None, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the costs of a result: weights, bytes, seconds, tokens and steps, and those measured elsewhere."""
    fit, tokens = trained.fit, round(tokens_of_epoch * trained.fit.epochs)
    seconds = fit.seconds + measured.get("feature_seconds", 0.0)
    return {
        "trainable_params": trained.parameters.trainable,
        "head_params": trained.parameters.head,
        "total_params": trained.parameters.total,
        "adapter_bytes": artifact_bytes,
        "train_seconds": seconds,
        "train_peak_bytes": fit.peak_bytes,
        "train_reserved_bytes": fit.reserved_bytes,
        **measured,
        "tokens": tokens,
        "padding_waste": trained.padding_waste,
        "tokens_per_second": tokens / seconds if tokens else 0.0,
        "steps": fit.steps,
        "epochs": fit.epochs,
    }
