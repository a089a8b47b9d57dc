"""The plan of a run: its parameters, data, steps, memory and duration, as values and as lines."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from peftkit import training
from peftkit.config import RunConfig
from peftkit.config.progress import duration
from peftkit.methods import Parameters
from peftkit.pipeline.duration import Duration
from peftkit.pipeline.memory import Memory, whole_memory


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
    processes: int  # that train together, each on batches of its own
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
            + (f" x {self.processes} processes" if self.processes > 1 else "")
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


def settings_of(config: RunConfig, arguments: Any, used: int | None) -> dict[str, Any]:
    """Return the fields of a plan that are settings of its run.

    Args:
        used: bytes of the process after the imports.
    """
    return {
        "names": {"task": config.task.name, "model": config.model.name, "method": config.method.name},
        "overrides": config.overrides,
        "seed": config.seed,
        "batch_size": arguments.train_batch_size,
        "accumulation": arguments.gradient_accumulation_steps,
        "processes": arguments.world_size,
        "learning_rate": arguments.learning_rate,
        "bf16": arguments.bf16,
        "imported": 0 if torch.cuda.is_available() else used or 0,
        "available": config.plan.memory_gb * 1e9 if config.plan.memory_gb else whole_memory(),
    }


@cache
def memory_of_imports() -> int | None:
    """Return the memory in use before this process planned a run: later plans find what the earlier ones left."""
    return training.used_memory()


def of_other_seed(plan: Plan, seed: int) -> Plan:
    """Return the plan of the same run with another seed, which shares the trials of a search."""
    run = f"{plan.run.removesuffix(f'seed {plan.seed}')}seed {seed}"
    duration = None if plan.duration is None else replace(plan.duration, trials=0.0)
    return replace(plan, run=run, seed=seed, trials=0, trial_steps=0, duration=duration)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
