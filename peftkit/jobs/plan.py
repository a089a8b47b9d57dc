"""Turn a choice into what it would train, cost and need, before any step."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from peftkit import training
from peftkit.config import RunConfig
from peftkit.data.collate import LengthGroupedSampler, padding_waste
from peftkit.data.datasets import load_task_dataset
from peftkit.methods import count_parameters
from peftkit.pipeline import reference
from peftkit.pipeline.build import build, split_holdout, steps_of
from peftkit.pipeline.costs import predict_memory
from peftkit.pipeline.sources import find_model, warn_substitutions
from peftkit.pipeline.trainers import own_loss
from peftkit.results.console import is_main_process


def plan(config: RunConfig) -> None:
    """Load data and model, take no step, and print parameters, steps, tokens, truncation, padding and memory."""
    model_source = find_model(config.model, config.source)
    rows = load_task_dataset(config.task, config.data_root, config.source)
    warn_substitutions(model_source, rows.source)
    table = rows.splits[config.task.splits["train"]]
    if config.early_stopping.patience is not None:
        table, _ = split_holdout(rows, config.task, config.early_stopping.holdout)
    bundle, encoded = build(config, model_source, rows.label_names, table)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = training.training_arguments(config.train, config.seed, Path(scratch), select_best=False, save=False)
    batch_size = arguments.train_batch_size
    order = LengthGroupedSampler(encoded.lengths, batch_size, config.seed).order(0)
    longest = np.argsort(-np.asarray(encoded.lengths), kind="stable")[:batch_size]
    batch = bundle.format.collator()([encoded.inputs[int(row)] for row in longest])
    loss: Any = (
        own_loss(config, bundle) if config.distill.teacher is None else None
    )  # a teacher is not asked before a step
    if config.task.kind == "preferences":
        loss = reference.final_states
    memory = predict_memory(bundle.model, batch, arguments.bf16, loss)
    parameters = count_parameters(bundle.model)
    epochs, accumulation = arguments.num_train_epochs, arguments.gradient_accumulation_steps
    steps = steps_of(arguments, len(encoded.lengths))
    if not parameters.trainable:
        epochs, steps = 0, 0
    lines = {
        "run": f"{config.method.name} of {model_source.name} on {config.task.name} ({rows.source.name}), seed {config.seed}",
        "trained weights": f"{parameters.trainable:,} of {parameters.total:,} "
        f"({parameters.trainable / parameters.total:.2%}), {parameters.head:,} of them in the head",
        "rows": f"{len(table):,} to train, {sum(rows.dropped.values())} dropped",
        "steps": f"{steps:,.0f} of {batch_size} rows x {accumulation}",
        "tokens": f"{encoded.tokens * epochs:,.0f} over {epochs:g} epochs",
        "truncated": f"{encoded.truncated} of {len(table)} rows, at {config.task.max_length} tokens",
        "padding": f"{padding_waste(encoded.lengths, order, batch_size):.1%} of what is computed",
        "learning rate": f"{arguments.learning_rate:g}, {'bf16' if arguments.bf16 else 'fp32'}",
        "memory": f"{_mb(memory.total)} predicted at the longest batch: weights {_mb(memory.weights)}, gradients "
        f"{_mb(memory.gradients)}, AdamW {_mb(memory.optimizer)}, activations {_mb(memory.activations)}; "
        "the program itself comes on top",
    }
    if is_main_process():
        for name, text in lines.items():
            print(f"{name:>16}  {text}")


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
