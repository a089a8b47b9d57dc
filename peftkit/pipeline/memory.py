"""Prediction of the memory that a run needs, from a step of the trainer on its largest batch, and from scoring one."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from peftkit import training
from peftkit.compat.memory import AllocatedMemory
from peftkit.training import ScoringTrainer

LIBRARIES = 60_000_000  # bytes of what libraries import and build during the first run of a process, on a CPU
SPARE = 0.9  # share of the free memory that a step may take


@dataclass(frozen=True)
class Memory:
    """Predicted bytes while training: of the GPU, without one of the process beyond its memory after the imports."""

    weights: int
    optimizer: int
    step: int  # activations, gradients, loss, and the buffers of kernels, at their common peak
    evaluation: int  # the same of scoring the largest batch
    process: int = 0  # tokenizer, data and libraries; 0 on a GPU
    is_measured: bool = True  # False: a whole batch does not fit here, so it is extrapolated from one example
    states: int = 0  # of a frozen base, kept for all epochs; 0 on a GPU

    @property
    def total(self) -> int:
        return self.weights + self.optimizer + max(self.step, self.evaluation) + self.process + self.states


class TrainingStep:
    """A step of a trainer with its own loss and optimizer; a model without trained weights is only scored.

    The first step creates the optimizer's states. With gradient accumulation, the gradients of an earlier batch exist
    during the pass. The trainer's model is changed.
    """

    def __init__(self, trainer: ScoringTrainer) -> None:
        self.trainer, self.model = trainer, trainer.model
        trainer.splits_batches = False
        self.is_trained = any(weight.requires_grad for weight in self.model.parameters())
        self.prepared = trainer.accelerator.prepare_model(self.model)
        self.batches = min(trainer.args.gradient_accumulation_steps, 2)  # of a step; more take no more memory
        trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps  # as train() does
        if self.is_trained:
            trainer.create_optimizer()

    @property
    def weights(self) -> int:
        return sum(each.nbytes for each in (*self.model.parameters(), *self.model.buffers()))

    @property
    def gradients(self) -> int:
        return sum(weight.nbytes for weight in self.model.parameters() if weight.requires_grad)

    def state_tensors(self) -> list[torch.Tensor]:
        """Return the optimizer's states."""
        found = self.trainer.optimizer.state.values() if self.is_trained else ()  # type: ignore[union-attr]
        return [each for states in found for each in states.values() if isinstance(each, torch.Tensor)]

    def collate(self, examples: Sequence[Any]) -> dict[str, Any]:
        """Return a batch on the trainer's device."""
        collate = (self.is_trained and self.trainer.train_collator) or self.trainer.data_collator
        return self.trainer.prepare_inputs(
            collate([each if isinstance(each, tuple) else dict(each) for each in examples])
        )

    def run(self, batch: dict[str, Any]) -> None:
        """Train on a batch, or score it."""
        if not self.is_trained:
            self.score(batch)
            return
        for _ in range(self.batches):
            self.pass_through(batch)
        self.update()

    def score(self, batch: dict[str, Any]) -> None:
        """Score a batch as the evaluation does."""
        self.trainer.score(self.prepared.eval(), batch)

    def pass_through(self, batch: dict[str, Any]) -> None:
        """Compute the loss and the gradients of a batch."""
        self.trainer.training_step(self.prepared, dict(batch))

    def update(self) -> None:
        """Update the weights, and delete the gradients."""
        assert self.trainer.optimizer is not None
        self.trainer.optimizer.step()
        self.model.zero_grad()


@contextmanager
def training_step(trainer: ScoringTrainer) -> Iterator[TrainingStep]:
    """Yield a step with all that saves work or memory in a run's steps."""
    with training.fast_steps(trainer):
        yield TrainingStep(trainer)


def predict_memory(step: TrainingStep, examples: Sequence[Any], scored: Sequence[Any], before: int | None) -> Memory:
    """Train on one example, then measure the peaks of a step and of scoring, as a run measures its own peak.

    Weights and the optimizer's states are counted.

    Args:
        examples: the largest batch of training.
        scored: the largest batch of the evaluation.
        before: the bytes in use before data and model were loaded; None where the system does not provide them, and the
            tensors that PyTorch's operations allocate are counted.
    """
    one = step.collate(examples[:1])
    step.run(one)
    states = step.state_tensors()
    weights, optimizer, gradients = step.weights, sum(each.nbytes for each in states), step.gradients
    if before is None:
        held = [*step.model.parameters(), *step.model.buffers(), *states]
        trained = _allocated_by(step.run, step.collate(examples), held)
        evaluated = _allocated_by(step.score, step.collate(scored), held) if scored else 0
        return Memory(weights, optimizer, max(trained, gradients), evaluated)
    process = 0
    small = _peak_of(step.run, one)
    if not torch.cuda.is_available():
        process = max((training.used_memory() or 0) - before - weights - optimizer, LIBRARIES)
    trained = len(examples) * max(small - gradients, 0) + gradients
    is_measured = trained <= SPARE * free_memory()
    if is_measured:
        trained = max(_peak_of(step.run, step.collate(examples)), gradients)
    evaluated = 0
    if scored:
        step.score(one := step.collate(scored[:1]))  # a first pass may take memory that further examples do not
        evaluated = len(scored) * _peak_of(step.score, one)
    if evaluated > SPARE * free_memory():
        is_measured = False
    elif scored:
        evaluated = _peak_of(step.score, step.collate(scored))
    return Memory(weights, optimizer, trained, evaluated, process, is_measured)


def _allocated_by(use: Callable[[dict[str, Any]], None], batch: dict[str, Any], held: list[torch.Tensor]) -> int:
    """Return the bytes that operations on a batch allocate at their peak."""
    with AllocatedMemory(held) as allocated:
        use(batch)
    return allocated.peak


def _peak_of(use: Callable[[dict[str, Any]], None], batch: dict[str, Any]) -> int:
    """Return the bytes that operations on a batch take at their peak beyond those in use before."""
    with training.peak_memory() as peak:
        before = peak() or 0
        use(batch)
        return (peak() or 0) - before


def free_memory() -> float:
    """Return the free bytes of the GPU or, without one, of the machine; infinity where the system hides them."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) * 1024
        limit, used = _limit_of_container()
        return min(free, limit - used)
    return float("inf")


def whole_memory() -> float:
    """Return the bytes of the GPU or, without one, of the machine; infinity where the system hides them."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[1])
    with suppress(OSError, ValueError, AttributeError):  # not POSIX
        return min(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), _limit_of_container()[0])
    return float("inf")


def _limit_of_container() -> tuple[float, float]:
    """Return the bytes that the container may use, and those in use; infinity and 0 where there is no limit."""
    with suppress(OSError, ValueError):  # "max"
        limit, used = (
            int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current")
        )
        return limit, used
    return float("inf"), 0.0
