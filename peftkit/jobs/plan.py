"""The plan of runs: their trainable parameters, steps, memory and duration, without training them."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from peftkit import training
from peftkit.config import RunConfig
from peftkit.config.progress import duration, stage
from peftkit.config.search_space import candidates, halving_rounds
from peftkit.data.datasets import TaskDataset
from peftkit.data.domains import UNLABELED_SPLIT, training_examples
from peftkit.data.formats import Encoded
from peftkit.data.formats.preferences import REFERENCE_COLUMNS
from peftkit.data.samplers import TokenBudgetSampler, padding_waste
from peftkit.methods import Parameters, count_parameters
from peftkit.models.frozen import FrozenStates
from peftkit.models.state_cache import StateCache
from peftkit.pipeline.artifacts import find_model
from peftkit.pipeline.build import build, optimizer_steps, split_holdout, text_length
from peftkit.pipeline.duration import Duration, estimate_duration, estimate_training
from peftkit.pipeline.encoding import read_dataset
from peftkit.pipeline.frozen import attached_states
from peftkit.pipeline.memory import Memory, predict_memory, training_step, whole_memory
from peftkit.pipeline.sources import warn_substitutions
from peftkit.pipeline.train import custom_loss, first_batches, make_trainer, train_sampler


@dataclass(frozen=True)
class Plan:
    """Trainable parameters, data, steps, memory and duration of a run."""

    run: str  # method, model, task, data and seed
    names: dict[str, str]  # of task, model and method
    overrides: tuple[str, ...]  # as typed
    seed: int
    parameters: Parameters
    examples: int  # to train on
    dropped: int
    truncated: int  # examples longer than max_length
    max_length: int  # tokens
    steps: int
    trials: int  # of a search
    trial_steps: int  # of all trials together
    batch_size: int
    accumulation: int  # batches per optimizer step
    epochs: float
    tokens: float  # over all epochs
    padding_waste: float  # share of padding in all computed tokens
    learning_rate: float
    bf16: bool
    memory: Memory  # for the longest batch
    imported: int  # bytes of the Python process after the imports; 0 with a GPU
    available: float  # bytes that a run may take
    duration: Duration | None  # None unless measured

    @property
    def fits(self) -> bool:
        """Return whether the run, with the process on a CPU, takes no more memory than is available."""
        return self.memory.total + self.imported <= self.available

    def lines(self) -> dict[str, str]:
        """Return the plan as text, by headings."""
        parameters, memory = self.parameters, self.memory
        process = f", process {_mb(memory.process)}" if memory.process else ""
        process += f", states of the frozen base {_mb(memory.states)}" if memory.states else ""
        lines = {
            "run": self.run,
            "trained weights": f"{parameters.trainable:,} of {parameters.total:,} "
            f"({parameters.trainable / parameters.total:.2%}), {parameters.head:,} of them in the head",
            "examples": f"{self.examples:,} to train, {self.dropped} dropped",
            "steps": f"{self.steps:,.0f} of {self.batch_size} examples x {self.accumulation}"
            + (f", and {self.trial_steps:,} in {self.trials} trials" if self.trials else ""),
            "tokens": f"{self.tokens:,.0f} over {self.epochs:g} epochs",
            "truncated": f"{self.truncated} of {self.examples} examples, at {self.max_length} tokens",
            "padding": f"{self.padding_waste:.1%} of all computed tokens",
            "learning rate": f"{self.learning_rate:g}, {'bf16' if self.bf16 else 'fp32'}",
            "memory": f"{_mb(memory.total)} at the peak: weights {_mb(memory.weights)}, optimizer "
            f"{_mb(memory.optimizer)}, step {_mb(memory.step)} or evaluation {_mb(memory.evaluation)}{process}"
            + ("" if memory.is_measured else "; extrapolated from one example, since the batch does not fit here"),
            f"fits {self.available / 1e9:.4g} GB": ("yes" if self.fits else "no")
            + (f", with {_mb(self.imported)} of imported libraries" if self.imported else ""),
        }
        if (time := self.duration) is not None:
            parts = f"loading {duration(time.loading)}, training {duration(time.training)}, "
            parts += f"evaluation {duration(time.evaluation)}"
            parts += f", trials {duration(time.trials)}" if time.trials else ""
            lines["duration"] = f"about {duration(time.total)}: {parts}"
        return lines


def make_plan(config: RunConfig) -> Plan:
    """Load data and model, and run a few steps on them; nothing is written."""
    started, used = time.perf_counter(), memory_of_imports()
    source = find_model(config.model, config.source)
    dataset = read_dataset(replace(config, trial=False))
    warn_substitutions(source, dataset.source)
    examples, holdout = _training_examples(config, dataset)
    bundle, encoded = build(config, source, dataset.label_names, training_examples(examples, dataset.splits))
    arguments = training.training_arguments(config.train, config.seed)
    inputs, parameters = _training_inputs(config, encoded), count_parameters(bundle.model)
    steps = optimizer_steps(arguments, len(encoded.lengths)) if parameters.trainable else 0
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
    epochs = arguments.num_train_epochs if parameters.trainable else 0
    return Plan(
        run=f"{config.method.name} of {source.name} on {config.task.name} ({dataset.source.name}), seed {config.seed}",
        names={"task": config.task.name, "model": config.model.name, "method": config.method.name},
        overrides=config.overrides,
        seed=config.seed,
        parameters=parameters,
        examples=len(examples),
        dropped=sum(dataset.dropped.values()),
        truncated=encoded.truncated,
        max_length=min(config.task.max_length, text_length(bundle.format)),
        steps=steps,
        trials=sum(count for count, _ in rounds),
        trial_steps=round(steps * sum(count * share for count, share in rounds)),
        batch_size=arguments.train_batch_size,
        accumulation=arguments.gradient_accumulation_steps,
        epochs=epochs,
        tokens=encoded.tokens * epochs,
        padding_waste=padding_waste(encoded.lengths, batches),
        learning_rate=arguments.learning_rate,
        bf16=arguments.bf16,
        memory=memory,
        imported=0 if torch.cuda.is_available() else used or 0,
        available=config.plan.memory_gb * 1e9 if config.plan.memory_gb else whole_memory(),
        duration=estimate,
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


@cache
def memory_of_imports() -> int | None:
    """Return the memory in use before this process planned a run: later plans find what the earlier ones left."""
    return training.used_memory()


def of_other_seed(plan: Plan, seed: int) -> Plan:
    """Return the plan of the same run with another seed, which shares the trials of a search."""
    run = f"{plan.run.removesuffix(f'seed {plan.seed}')}seed {seed}"
    duration = None if plan.duration is None else replace(plan.duration, trials=0.0)
    return replace(plan, run=run, seed=seed, trials=0, trial_steps=0, duration=duration)


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


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
