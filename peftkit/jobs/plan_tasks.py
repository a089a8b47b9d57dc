"""The plan of a run of several tasks."""

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from peftkit import training
from peftkit.config import RunConfig
from peftkit.config.progress import stage
from peftkit.data.samplers import padding_waste
from peftkit.jobs.plan_record import Plan, memory_of_imports, settings_of
from peftkit.methods import count_parameters
from peftkit.pipeline.artifacts import find_model
from peftkit.pipeline.build import text_length
from peftkit.pipeline.duration import Duration, estimate_duration, estimate_training
from peftkit.pipeline.encoding import read_dataset
from peftkit.pipeline.examples import RunContext
from peftkit.pipeline.memory import predict_memory, training_step
from peftkit.pipeline.multitask import (
    TaskModel,
    build_models,
    make_multitask_trainer,
    mixed_batches,
    mixture,
    task_parts,
    tokens_of_epoch,
)
from peftkit.pipeline.sources import warn_substitutions


def plan_tasks(config: RunConfig) -> Plan:
    """Load the data and the models of all tasks, and run a few steps on them; nothing is written."""
    started, used = time.perf_counter(), memory_of_imports()
    tasks = _build(config)
    arguments, found = training.training_arguments(config.train, config.seed), mixture(config, tasks)
    sampler = mixed_batches(config, tasks, arguments, found)
    batches, examples = sampler.batches(0), sum(int(each["examples"]) for each in found.values())
    steps = math.ceil(math.ceil(len(batches) / arguments.gradient_accumulation_steps) * arguments.num_train_epochs)
    steps = arguments.max_steps if arguments.max_steps > 0 else steps
    trainer, estimate = make_multitask_trainer(config, tasks, arguments, found), None
    joined: Any = trainer.train_dataset
    with training_step(trainer) as step:
        loading = time.perf_counter() - started
        with stage("measuring the memory"):
            longest = max(batches, key=lambda batch: len(batch) * int(sampler.lengths[batch].max()))
            largest = [joined[int(row)] for row in longest]
            memory = predict_memory(step, largest, _largest_scored(tasks, arguments.eval_batch_size), used)
        if config.plan.measure and memory.is_measured:
            with stage("measuring the duration"):
                seconds = estimate_training(step, joined, sampler.lengths, batches, steps)
                parts = [_evaluation(task) for task in tasks]
                estimate = Duration(loading, seconds, sum(parts))
    names = ", ".join(task.name for task in tasks)
    return Plan(
        run=f"{config.method.name} of {tasks[0].context.model_source.name} on {names} together, seed {config.seed}",
        parameters=count_parameters(trainer.model),
        examples=examples,
        dropped=sum(sum(task.context.dataset.dropped.values()) for task in tasks),
        truncated=sum(task.splits.train.truncated for task in tasks),
        max_length=max(min(t.context.config.task.max_length, text_length(t.bundle.format)) for t in tasks),
        steps=steps,
        trials=0,
        trial_steps=0,
        epochs=arguments.num_train_epochs,
        tokens=tokens_of_epoch(tasks, found) * arguments.num_train_epochs,
        padding_waste=padding_waste(sampler.lengths, task_parts(sampler)),
        memory=memory,
        duration=estimate,
        **settings_of(config, arguments, used),
    )


def _build(config: RunConfig) -> list[TaskModel]:
    source = find_model(config.model, config.source)
    alone = [replace(config, task=task) for task in config.tasks or ()]
    parts = [RunContext(each, source, read_dataset(each), Path(), {"audit": {}}) for each in alone]
    warn_substitutions(source, *(part.dataset.source for part in parts))
    with tempfile.TemporaryDirectory() as scratch:  # for tags
        return build_models(RunContext(config, source, parts[0].dataset, Path(scratch), {"audit": {}}, parts=parts))


def _largest_scored(tasks: Sequence[TaskModel], size: int) -> list[tuple[int, dict[str, Any]]]:
    """Return the longest examples of the validation split with the most tokens, each with the number of its task."""
    batches = []
    for number, task in enumerate(tasks):
        for encoded in task.splits.validation.values():
            order = np.argsort(-np.asarray(encoded.lengths), kind="stable")[:size]
            rows = [(number, encoded.inputs[int(row)]) for row in order]
            batches.append((len(rows) * max(encoded.lengths, default=0), rows))
    return max(batches, key=lambda batch: batch[0])[1]


def _evaluation(task: TaskModel) -> float:
    """Return the seconds of scoring a task."""
    context, holdout = task.context, task.splits.holdout
    held = 0 if holdout is None else len(holdout.has_label)
    return estimate_duration(context.config, task.bundle, context.dataset, held, 0.0, 0.0, []).evaluation
