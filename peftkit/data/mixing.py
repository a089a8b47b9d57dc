"""Mixing of the training examples of several tasks: the share of each task, and the batches of an epoch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler

from peftkit.data.samplers import MEGABATCH

PROPORTIONAL, TEMPERATURE, EQUAL = "proportional", "temperature", "equal"


def mixing_rates(sizes: Sequence[int], mixing: str, limit: int | None = None, temperature: float = 1.0) -> np.ndarray:
    """Return the probability (tasks,) with which an example is drawn from each task (Raffel et al. 2020, 3.5.2).

    proportional: min(size, limit) over the sum of these; temperature: these rates to the power 1 / temperature, which
    sum to 1 again; equal: the same for each task.

    Args:
        sizes: (tasks,) training examples.
        limit: the artificial limit K of a task's size; None: no limit.
    """
    if mixing == EQUAL:
        return np.full(len(sizes), 1 / len(sizes))
    rates = np.minimum(sizes, limit or max(sizes)).astype(float)
    if mixing == TEMPERATURE:
        rates = (rates / rates.sum()) ** (1 / temperature)
    return rates / rates.sum()  # type: ignore[no-any-return]


def examples_of_epoch(sizes: Sequence[int], rates: np.ndarray, limit: int | None = None) -> np.ndarray:
    """Return how many examples of each task (tasks,) an epoch has: together as many as the tasks, up to the limit.

    The numbers have the largest remainders rounded up, and each task has one example at least. With proportional mixing
    and no limit, an epoch has every example once.
    """
    total = int(np.minimum(sizes, limit or max(sizes)).sum())
    exact: np.ndarray = rates * total
    counts = np.floor(exact + 1e-9).astype(int)
    rest = np.argsort(-(exact - counts), kind="stable")[: total - counts.sum()]
    counts[rest] += 1
    return np.maximum(counts, 1)  # type: ignore[no-any-return]


class MixedBatches(BatchRebalanceSampler):
    """Batches of the examples of several tasks, which are numbered one task after the other.

    The batches of an epoch are a function of (seed, epoch) only. Each task's examples come in random order, all of them
    before one comes again, also over the ends of epochs.

    HF's Trainer takes a subclass of its BatchRebalanceSampler as a sampler of whole batches.

    Args:
        lengths: of the examples of each task, in tokens.
        counts: (tasks,) examples of each task in an epoch.
        is_homogeneous: whether a batch has examples of one task only; the last one of each task may be smaller.
        groups_lengths: whether the examples of a batch are of similar length.
    """

    def __init__(
        self,
        lengths: Sequence[np.ndarray],
        counts: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int,
        *,
        is_homogeneous: bool = True,
        groups_lengths: bool = True,
    ) -> None:
        super().__init__([], batch_size, 1, grad_accum=1, seed=seed)
        self.sizes = [len(each) for each in lengths]
        self.lengths: np.ndarray = np.concatenate(lengths)
        self.first = np.cumsum([0, *self.sizes])
        self.counts, self.is_homogeneous, self.groups_lengths = list(counts), is_homogeneous, groups_lengths
        parts = self.counts if is_homogeneous else [sum(self.counts)]
        self.num_global_batches = sum(-(-count // batch_size) for count in parts)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.batches(self.epoch))

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the numbers of the examples of each batch of an epoch."""
        drawn = [self.drawn(task, epoch) for task in range(len(self.sizes))]
        random = np.random.default_rng([self.seed, epoch])
        parts = drawn if self.is_homogeneous else [random.permutation(np.concatenate(drawn))]
        batches = [batch for part in parts for batch in self._batches(part)]
        return [batches[number] for number in random.permutation(len(batches))]

    def drawn(self, task: int, epoch: int) -> np.ndarray:
        """Return the numbers of a task's examples in an epoch, in random order."""
        size, count = self.sizes[task], self.counts[task]
        start, end = epoch * count, (epoch + 1) * count
        orders = [
            np.random.default_rng([self.seed, task, number]).permutation(size)
            for number in range(start // size, -(-end // size))
        ]
        chosen = np.concatenate(orders)[start - start // size * size :][:count]
        return chosen + self.first[task]  # type: ignore[no-any-return]

    def _batches(self, order: np.ndarray) -> list[np.ndarray]:
        """Return batches of examples in this order; of similar length within 50 of them."""
        batch = self.effective_batch_size
        if self.groups_lengths:
            parts = [order[first : first + batch * MEGABATCH] for first in range(0, len(order), batch * MEGABATCH)]
            order = np.concatenate([part[np.argsort(-self.lengths[part], kind="stable")] for part in parts])
        return [order[first : first + batch] for first in range(0, len(order), batch)]


class JoinedExamples(torch.utils.data.Dataset):
    """The encoded examples of several tasks, one task after the other; an item is the task's number and the example."""

    def __init__(self, tasks: Sequence[Any]) -> None:
        self.tasks = tasks
        self.first = np.cumsum([0, *map(len, tasks)])

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, number: int) -> tuple[int, dict[str, Any]]:
        task = int(np.searchsorted(self.first, number, side="right")) - 1
        return task, self.tasks[task][int(number) - int(self.first[task])]


@dataclass(frozen=True)
class TaskCollator:
    """Makes a batch of each task's part of a batch, by the collator of the task: {number of the task: its batch}."""

    collators: Sequence[Any]

    def __call__(self, examples: Sequence[tuple[int, dict[str, Any]]]) -> dict[int, Mapping[str, Any]]:
        parts: dict[int, list[dict[str, Any]]] = {}
        for task, example in examples:
            parts.setdefault(task, []).append(example)
        return {task: dict(self.collators[task](part)) for task, part in sorted(parts.items())}
