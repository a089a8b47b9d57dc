"""Training of one model on several tasks: a complete model for each, whose bodies share their parameters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from peftkit import training
from peftkit.config import RunConfig
from peftkit.config.console import log
from peftkit.config.kinds import kind_of
from peftkit.config.suggestions import listed
from peftkit.data.formats import Encoded
from peftkit.data.mixing import JoinedExamples, MixedBatches, TaskCollator, examples_of_epoch, mixing_rates
from peftkit.data.samplers import padding_waste
from peftkit.methods import count_parameters, join_ranks, replace_prompt_encoders, share_ranks, tie_models
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import holdout_score, output_reader, predictor
from peftkit.pipeline.examples import EncodedSplits, RunContext, build_and_encode
from peftkit.pipeline.tags import write_tags
from peftkit.pipeline.train import TrainedRun, add_callbacks, custom_loss

SHARED_AND_OWN = "shared_and_per_task"  # multitask.adapter
TAGS = "tags"  # folder of the vocabularies of multitask.tags


@dataclass
class TaskModel:
    """One task of a run: its model, which shares its body with those of the others, and its examples."""

    context: RunContext
    bundle: TrainingBundle
    splits: EncodedSplits
    trainer: training.ScoringTrainer | None = None  # that only predicts

    @property
    def name(self) -> str:
        return self.context.config.task.name

    @property
    def predictor(self) -> training.ScoringTrainer:
        self.trainer = self.trainer or predictor(self.context.config, self.bundle)
        return self.trainer


def build_models(context: RunContext) -> list[TaskModel]:
    """Build the model of each task as a run of it alone does, from the same seed, and share their bodies."""
    settings, names = context.config.multitask, [part.config.task.name for part in context.parts]
    adapter, tasks = settings.adapter, list[TaskModel]()
    tags = write_tags(context.config, context.model_source, names, context.folder / TAGS) if settings.tags else {}
    for part in context.parts:
        given = replace(part.config, vocab=tags.get(part.config.task.name))
        part.config = _with_twice_the_ranks(given) if adapter == SHARED_AND_OWN else given
        tasks.append(TaskModel(part, *build_and_encode(part)))
        part.config = given
        tie_models([each.bundle.model for each in tasks], adapter != "shared")  # at once, so that one body is in memory
    if adapter == SHARED_AND_OWN:
        share_ranks([task.bundle.model for task in tasks])
    return tasks


def _with_twice_the_ranks(config: RunConfig) -> RunConfig:
    """Return the config of a LoRA of as many shared ranks and own ranks as its own, with the same scaling."""
    settings = config.method.config
    changed = {name: 2 * settings[name] for name in ("r", "lora_alpha")}
    return replace(config, method=replace(config.method, config={**settings, **changed}))


Mixture = dict[str, dict[str, float]]  # by task


def mixture(config: RunConfig, tasks: Sequence[TaskModel]) -> Mixture:
    """Return of each task its training examples, their number in an epoch, its rate and the weight of its loss."""
    settings, encoded = config.multitask, [task.splits.train for task in tasks]
    sizes = [len(each.lengths) for each in encoded]
    rates = mixing_rates(sizes, settings.mixing, settings.limit, settings.temperature or 1.0)
    counts = examples_of_epoch(sizes, rates, settings.limit)
    weights = loss_weights(config, tasks)
    return {
        task.name: {"examples": size, "examples_of_epoch": int(count), "rate": float(rate), "loss_weight": weight}
        for task, size, count, rate, weight in zip(tasks, sizes, counts, rates, weights, strict=True)
    }


def loss_weights(config: RunConfig, tasks: Sequence[TaskModel]) -> list[float]:
    """Return the factor of each task's loss: its weight over the loss of a model that knows nothing; their mean is 1.

    That loss is the logarithm of the number of choices, as in MUPPET (Aghajanyan et al. 2021, section 3.2): classes,
    tags, the tokens of the vocabulary for text, the tokens of a text (their mean) for the ends of an answer; of squared
    errors it is the variance of the training labels.
    """
    settings, given = config.multitask, config.multitask.weights or {}
    factors = [
        float(given.get(task.name, 1.0)) / (_loss_scale(task) if settings.normalize_loss else 1.0) for task in tasks
    ]
    mean = sum(factors) / len(factors)
    return [factor / mean for factor in factors]


def _loss_scale(task: TaskModel) -> float:
    found, encoded = task.bundle.format, task.splits.train
    if found.output_kind == "spans":
        return math.log(float(np.mean(encoded.lengths)))
    if found.output_kind != "logits":
        return math.log(task.bundle.model.config.vocab_size)
    if found.names is None:
        return float(np.var(np.asarray(encoded.labels, dtype=float))) or 1.0
    return math.log(2 if kind_of(found.task).several_labels else max(len(found.names), 2))


def mixed_batches(config: RunConfig, tasks: Sequence[TaskModel], arguments: Any, found: Mixture) -> MixedBatches:
    """Return the batches of the tasks' examples."""
    lengths = [np.asarray(task.splits.train.lengths) for task in tasks]
    counts = [int(each["examples_of_epoch"]) for each in found.values()]
    return MixedBatches(
        lengths,
        counts,
        arguments.train_batch_size,
        config.seed,
        is_homogeneous=config.multitask.batches == "homogeneous",
        groups_lengths=arguments.train_sampling_strategy == "group_by_length",
    )


def train_models(context: RunContext, tasks: Sequence[TaskModel]) -> TrainedRun:
    """Train the tasks' models together, from the last checkpoint where there is one; record how they were mixed."""
    config, patience = context.config, context.config.early_stopping.patience
    arguments = training.training_arguments(
        config.train, config.seed, context.checkpoints, select_best=patience is not None
    )
    found = mixture(config, tasks)
    context.result["multitask"] = {"tasks": found}
    _log_mixture(found)
    sampler = mixed_batches(config, tasks, arguments, found)
    scores = {task.name: partial(_holdout_score, task, task.predictor) for task in tasks if patience is not None}
    trainer = make_multitask_trainer(
        config,
        tasks,
        arguments,
        found,
        train_sampler=sampler,
        scores=scores,
        patience=patience,
        log_file=context.folder / "log.jsonl",
    )
    add_callbacks(trainer, config)
    fit = training.fit(trainer, context.checkpoints)
    parameters = count_parameters(trainer.model)
    for task in tasks:
        replace_prompt_encoders(task.bundle.model)
        if config.multitask.adapter == SHARED_AND_OWN:
            join_ranks(task.bundle.model)
    return TrainedRun(trainer, fit, parameters, padding_waste(sampler.lengths, task_parts(sampler)))


def make_multitask_trainer(
    config: RunConfig, tasks: Sequence[TaskModel], arguments: Any, found: Mixture, **settings: Any
) -> training.MultiTaskTrainer:
    """Return the trainer of the tasks' models."""
    losses = [custom_loss(task.context.config, task.bundle, task.splits.train) or training.model_loss for task in tasks]
    weights = [each["loss_weight"] for each in found.values()]
    model = training.MultiTaskModel([task.bundle.model for task in tasks], losses, weights)
    trainer = training.MultiTaskTrainer(
        model=model,
        args=arguments,
        data_collator=TaskCollator([task.bundle.format.collator() for task in tasks]),
        train_dataset=JoinedExamples([task.splits.train.inputs for task in tasks]),
        reader=partial(_read_scores, tasks),
        **settings,
    )
    trainer.loraplus_lr_ratio = config.method.loraplus_lr_ratio
    trainer.chooses_attention = config.model.attn_implementation is None
    return trainer


def _read_scores(tasks: Sequence[TaskModel], model: Any, batch: dict[int, Any]) -> list[Any]:
    """Return the scores of each task's part of a batch."""
    return [output_reader(tasks[task].bundle)(model.views[task], part) for task, part in batch.items()]


def tokens_of_epoch(tasks: Sequence[TaskModel], found: Mixture) -> float:
    """Return the tokens of an epoch of all tasks, the mean over epochs."""
    return sum(_mean_length(task.splits.train) * found[task.name]["examples_of_epoch"] for task in tasks)


def task_parts(sampler: MixedBatches) -> list[np.ndarray]:
    """Return the parts of the first epoch's batches, each of one task and padded by itself."""
    task_of: np.ndarray = np.repeat(np.arange(len(sampler.sizes)), sampler.sizes)
    return [batch[task_of[batch] == task] for batch in sampler.batches(0) for task in np.unique(task_of[batch])]


def _mean_length(encoded: Encoded) -> float:
    return encoded.tokens / len(encoded.lengths)


def _holdout_score(task: TaskModel, trainer: training.ScoringTrainer) -> float:
    """Return the score of a task on its held-out examples.

    Args:
        trainer: made before training, since making one sets the seed.
    """
    held = task.splits.holdout
    assert held is not None
    predictions = trainer.predict(held.inputs).predictions  # type: ignore[arg-type]
    return holdout_score(task.context.config, task.bundle, predictions, held)


def _log_mixture(found: Mixture) -> None:
    counts = (f"{name} {each['examples_of_epoch']:,} of {each['examples']:,}" for name, each in found.items())
    log(f"   examples of an epoch: {listed(counts)}")
    if len({each["loss_weight"] for each in found.values()}) > 1:
        log("   loss weights: " + listed(f"{name} {each['loss_weight']:.3g}" for name, each in found.items()))
