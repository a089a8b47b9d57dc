"""The plan of runs: their trainable parameters, steps, memory and duration, without training them."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from peftkit import training
from peftkit.config import RunConfig
from peftkit.config.progress import stage
from peftkit.config.search_space import candidates, halving_rounds
from peftkit.data.datasets import TaskDataset
from peftkit.data.domains import UNLABELED_SPLIT, training_examples
from peftkit.data.formats import Encoded
from peftkit.data.formats.preferences import REFERENCE_COLUMNS
from peftkit.data.samplers import TokenBudgetSampler, padding_waste
from peftkit.jobs.plan_record import Plan, memory_of_imports, settings_of
from peftkit.jobs.plan_tasks import plan_tasks
from peftkit.methods import count_parameters
from peftkit.models.frozen import FrozenStates
from peftkit.models.state_cache import StateCache
from peftkit.pipeline.artifacts import find_model
from peftkit.pipeline.build import build, optimizer_steps, split_holdout, text_length
from peftkit.pipeline.duration import Duration, estimate_duration, estimate_training
from peftkit.pipeline.encoding import read_dataset
from peftkit.pipeline.frozen import attached_states
from peftkit.pipeline.memory import predict_memory, training_step
from peftkit.pipeline.sources import warn_substitutions
from peftkit.pipeline.train import custom_loss, first_batches, make_trainer, train_sampler


def make_plan(config: RunConfig) -> Plan:
    """Load data and model, and run a few steps on them; nothing is written."""
    return plan_tasks(config) if config.is_multitask else _plan_task(config)


def _plan_task(config: RunConfig) -> Plan:
    started, used = time.perf_counter(), memory_of_imports()
    source = find_model(config.model, config.source)
    dataset = read_dataset(replace(config, trial=False))
    warn_substitutions(source, dataset.source)
    examples, holdout = _training_examples(config, dataset)
    bundle, encoded = build(config, source, dataset.label_names, training_examples(examples, dataset.splits))
    arguments = training.training_arguments(config.train, config.seed)
    inputs, parameters = _training_inputs(config, encoded), count_parameters(bundle.model)
    has_steps = parameters.trainable and not config.method.traits.estimator
    steps = optimizer_steps(arguments, len(encoded.lengths)) if has_steps else 0
    loss = None if config.distill.teacher else custom_loss(config, bundle, encoded)
    rounds = halving_rounds(len(candidates(config)), config.search.halving_factor) if parameters.trainable else []
    batches, largest = _training_batches(config, encoded, arguments)
    estimate = None
    with (
        attached_states(config, bundle, encoded, StateCache()) as states,
        training_step(make_trainer(config, bundle, arguments, inputs, loss=loss)) as step,
    ):
        loading = time.perf_counter() - started
        parts = [encoded, *map(bundle.format.encode, _scored_tables(config, dataset))]
        with stage("measuring the memory"):
            scored = _largest_batch(config, parts[1:], arguments.eval_batch_size)
            memory = predict_memory(step, [inputs[int(index)] for index in largest], scored, used)
        if states is not None and not torch.cuda.is_available():
            memory = replace(memory, states=states.needed_bytes(np.concatenate([part.lengths for part in parts])))
        if config.plan.measure and memory.is_measured:
            with stage("measuring the duration"):
                for _ in range(1 if states is None else 2):  # the states of the second time are known
                    seconds = estimate_training(step, inputs, encoded.lengths, batches, steps)
                    estimate = estimate_duration(config, bundle, dataset, len(holdout or ()), loading, seconds, rounds)
                if estimate is not None and states is not None and states.computed:
                    estimate = _with_reused_states(estimate, states, parts, config.search.samples)
    epochs = arguments.num_train_epochs if has_steps else float(config.method.traits.estimator)
    return Plan(
        run=f"{config.method.name} of {source.name} on {config.task.name} ({dataset.source.name}), seed {config.seed}",
        parameters=parameters,
        examples=len(examples),
        dropped=sum(dataset.dropped.values()),
        truncated=encoded.truncated,
        max_length=min(config.task.max_length, text_length(bundle.format)),
        steps=steps,
        trials=sum(count for count, _ in rounds),
        trial_steps=round(steps * sum(count * share for count, share in rounds)),
        epochs=epochs,
        tokens=encoded.tokens * epochs,
        padding_waste=padding_waste(encoded.lengths, batches),
        memory=memory,
        duration=estimate,
        **settings_of(config, arguments, used),
    )


def _training_examples(config: RunConfig, dataset: TaskDataset) -> tuple[Any, Any]:
    """Return the examples for training and, with early stopping, the holdout."""
    if config.early_stopping.patience is not None:
        return split_holdout(dataset, config.task, config.early_stopping.holdout)
    return dataset.splits[config.task.splits["train"]], None


def _scored_tables(config: RunConfig, dataset: TaskDataset) -> list[Any]:
    unscored = config.task.splits["train"], UNLABELED_SPLIT
    return [each for name, each in dataset.splits.items() if name not in unscored]


def _with_reused_states(estimate: Duration, states: FrozenStates, parts: Sequence[Encoded], samples: int) -> Duration:
    """Return the duration with that of computing the states of a frozen base once for a run and its trials.

    Args:
        estimate: where all states are known.
        parts: the training split, and those that are scored.
        samples: number of training examples that score the trials.
    """
    once, *scored = (states.predicted_seconds(part.lengths) for part in parts)
    return replace(
        estimate,
        training=estimate.training + once,
        evaluation=estimate.evaluation + sum(scored),
        trials=estimate.trials and estimate.trials + once * samples / len(parts[0].lengths),
    )


def _training_inputs(config: RunConfig, encoded: Encoded) -> Any:
    """Return the inputs of training or evaluation; the scores of a reference, which only a run computes, are 0."""
    inputs: Any = encoded.inputs
    for column in REFERENCE_COLUMNS if config.task.kind == "preferences" else ():
        inputs = inputs.add_column(column, [0.0] * len(inputs))
    return inputs


def _training_batches(config: RunConfig, encoded: Encoded, arguments: Any) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the indices of the examples of the first epoch's batches, and of the largest batch of any epoch."""
    sampler, size = train_sampler(config, encoded, arguments), arguments.train_batch_size
    batches = first_batches(sampler, encoded, size)
    if isinstance(sampler, TokenBudgetSampler):  # those of other epochs are hardly larger
        return batches, max(batches, key=sampler.cost)
    return batches, _longest(encoded, size)


def _longest(part: Encoded, size: int) -> np.ndarray:
    return np.argsort(-np.asarray(part.lengths), kind="stable")[:size]


def _largest_batch(config: RunConfig, parts: Iterable[Encoded], size: int) -> list[dict[str, Any]]:
    """Return the batch with the most tokens: the longest examples of one of the parts."""
    batches = [(part, _longest(part, size)) for part in parts]
    part, order = max(batches, key=lambda batch: len(batch[1]) * max(batch[0].lengths, default=0))
    inputs = _training_inputs(config, part)
    return [inputs[int(index)] for index in order]
