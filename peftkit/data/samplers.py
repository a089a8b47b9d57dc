"""The order of training examples: batches of similar length, or of equal numbers of tokens."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import numpy as np
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import BatchRebalanceSampler

MEGABATCH = 50  # batches that are sorted together, as in transformers' LengthGroupedSampler


class LengthGroupedSampler(Sampler[int]):
    """Shuffle examples so that each batch has examples of similar length.

    The class of this name in transformers uses the global generator, so the batches of a resumed run differ. Here the
    order of an epoch is a function of (seed, epoch) only.

    Args:
        labels: (examples,) classes; an epoch draws as many examples as there are, with replacement, each class with
            the same probability. By default it has every example once.
    """

    def __init__(
        self, lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int, labels: np.ndarray | None = None
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = np.asarray(lengths), batch_size, seed, 0
        self.probabilities = None if labels is None else balanced_probabilities(labels)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return map(int, self.order(self.epoch))  # not a list, which takes 140 MB for 3.5 million examples

    def order(self, epoch: int) -> np.ndarray:
        """Return the indices (examples,) in the order of an epoch; only the last batch may be incomplete."""
        random = np.random.default_rng([self.seed, epoch])
        indices = shuffled(random, len(self.lengths), self.probabilities)
        size = self.batch_size * MEGABATCH
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            indices[start : start + size] = part[np.argsort(-self.lengths[part], kind="stable")]
        full = len(indices) // self.batch_size * self.batch_size
        batches = random.permutation(indices[:full].reshape(-1, self.batch_size))
        return np.concatenate([batches.reshape(-1), indices[full:]])


class SharedBatches(BatchRebalanceSampler):
    """Batches of one of several processes: its share of those that a single process would have.

    The last batch of an epoch is shared out evenly too. A process that has no example of it gets the first one, which
    must not count: see `lacks_last`. HF's Trainer takes a subclass of BatchRebalanceSampler as a sampler of batches.

    Args:
        order: of the examples of an epoch, which is the same in all processes.
        batch_size: of one process.
        processes, rank: the number of processes, and which of them this is.
        drop_last: whether an incomplete last batch is left out.
    """

    def __init__(self, order: Sampler[int], batch_size: int, processes: int, rank: int, drop_last: bool) -> None:
        super().__init__([], batch_size * processes, processes, grad_accum=1, rank=rank, drop_last=drop_last)
        self.order = order
        full, rest = divmod(len(order), self.effective_batch_size)  # type: ignore[arg-type]
        self.num_global_batches = full + (rest > 0 and not drop_last)
        self.lacks_last = not drop_last and 0 < rest <= rank

    def __iter__(self) -> Iterator[list[int]]:
        if hasattr(self.order, "set_epoch"):
            self.order.set_epoch(self.epoch)
        indices = iter(self.order)
        for _ in range(self.num_global_batches):
            batch = list(islice(indices, self.effective_batch_size))
            yield np.array_split(batch, self.dp_size)[self.rank].tolist() or batch[:1]


class TokenBudgetSampler(BatchRebalanceSampler):
    """Batches of about equal numbers of padded tokens: few long examples or many short ones (fairseq's --max-tokens).

    An epoch has as many batches as with a fixed batch size, so their mean number of examples is that size. The batches
    of an epoch are a function of (seed, epoch) only. Each process gets every n-th batch.

    HF's Trainer takes a subclass of its BatchRebalanceSampler as a sampler of whole batches. That class itself balances
    only the accumulated batches and the processes of a step.

    Args:
        batch_size: mean number of examples in a batch.
        labels: as of `LengthGroupedSampler`.
        processes, rank: the number of processes, and which of them this is.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int,
        labels: np.ndarray | None = None,
        *,
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__([], batch_size * processes, processes, grad_accum=1, seed=seed, rank=rank)
        self.lengths: np.ndarray = np.maximum(lengths, 1)
        self.num_global_batches = -(-len(self.lengths) // self.effective_batch_size)
        self.probabilities = None if labels is None else balanced_probabilities(labels)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.batches(self.epoch)[self.rank :: self.dp_size])

    def cost(self, batch: np.ndarray) -> float:
        """Return the cost of a batch of these indices, in tokens; attention adds a share that grows with the length."""
        longest = int(self.lengths[batch].max())
        return len(batch) * longest * (1 + self.QUADRATIC_COST_COEF * longest)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the indices of the examples of each batch of an epoch, over all processes."""
        random = np.random.default_rng([self.seed, epoch])
        count = self.num_global_batches * self.dp_size
        indices = shuffled(random, len(self.lengths), self.probabilities)
        indices = np.resize(indices, max(len(indices), count))  # each process needs an example
        batches: list[np.ndarray] = []
        for part in np.array_split(np.arange(count), -(-count // MEGABATCH)):
            start, end = (len(indices) * int(edge) // count for edge in (part[0], part[-1] + 1))
            chosen = indices[start:end]
            chosen = chosen[np.argsort(-self.lengths[chosen], kind="stable")]
            batches += np.split(chosen, equal_token_cuts(self.lengths[chosen].tolist(), len(part)))
        return [batches[number] for number in random.permutation(count)]


def equal_token_cuts(lengths: Sequence[int], number: int) -> list[int]:
    """Return where to cut examples into this number of batches so that the largest has the fewest padded tokens.

    Args:
        lengths: at least `number`, above 0, from long to short.
    """

    def ends(budget: int) -> list[int]:
        found = [0]
        while found[-1] < len(lengths):
            found.append(min(found[-1] + max(1, budget // lengths[found[-1]]), len(lengths)))
        return found

    budget = bisect_left(range(len(lengths) * lengths[0]), True, key=lambda tokens: len(ends(tokens)) <= number + 1)
    cuts = ends(budget)
    while len(cuts) <= number:  # long examples do not fill a budget exactly
        sizes = [(end - start > 1, (end - start) * lengths[start], start, end) for start, end in pairwise(cuts)]
        _, _, start, end = max(sizes)
        cuts = sorted([*cuts, (start + end) // 2])
    return cuts[1:-1]


def shuffled(random: np.random.Generator, count: int, probabilities: np.ndarray | None) -> np.ndarray:
    """Return the indices (count,) in random order or, with probabilities, drawn with replacement."""
    indices: np.ndarray = np.arange(count, dtype=np.int32)
    return random.permutation(indices) if probabilities is None else random.choice(indices, count, p=probabilities)


def balanced_probabilities(labels: np.ndarray) -> np.ndarray:
    """Return the probability of each example (examples,) with which all classes that occur are drawn equally often."""
    classes, where, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / (len(classes) * counts[where])


def batches_of(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return the batches of examples in this order."""
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def padding_waste(lengths: Sequence[int] | np.ndarray, batches: Sequence[np.ndarray]) -> float:
    """Return the share of padding tokens (0 to 1) in batches of the examples with these indices."""
    sizes = [np.asarray(lengths)[batch] for batch in batches]
    padded = sum(len(batch) * int(batch.max()) for batch in sizes)
    return float(1 - sum(int(batch.sum()) for batch in sizes) / padded) if padded else 0.0
