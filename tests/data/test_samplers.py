"""Batches of equal numbers of tokens: complete, balanced, as many as with a fixed size, and a function of the seed."""

from __future__ import annotations

from itertools import chain, combinations, pairwise

import numpy as np
import pytest

from peftkit.data.samplers import LengthGroupedSampler, SharedBatches, TokenBudgetSampler, batches_of, equal_token_cuts


@pytest.fixture(scope="module")
def lengths() -> np.ndarray:
    return np.random.default_rng(0).lognormal(2.5, 0.7, 3210).astype(int).clip(3, 128)


def test_an_epoch_has_each_example_once_in_as_many_batches_of_equal_tokens(lengths: np.ndarray) -> None:
    sampler = TokenBudgetSampler(lengths, 16, seed=1)
    batches = sampler.batches(0)
    assert sorted(np.concatenate(batches)) == list(range(3210)) and len(batches) == len(sampler) == 201
    tokens = [len(batch) * lengths[batch].max() for batch in batches]
    assert max(tokens) < 1.2 * np.mean(tokens)
    sizes = [len(batch) for batch in batches]
    assert min(sizes) < 8 and max(sizes) > 32
    assert [batch.tolist() for batch in batches] == list(sampler)


def test_batches_depend_on_seed_and_epoch_alone(lengths: np.ndarray) -> None:
    first, again, other = (TokenBudgetSampler(lengths, 16, seed=seed) for seed in (0, 0, 1))
    again.set_epoch(1)
    assert [each.tolist() for each in first.batches(1)] == list(again)
    assert list(again) != list(first) and list(first) != list(other)


@pytest.mark.parametrize(("number", "size"), [(3210, 16), (5, 1), (1, 4)])
def test_processes_share_the_batches_of_an_epoch(lengths: np.ndarray, number: int, size: int) -> None:
    shares = [TokenBudgetSampler(lengths[:number], size, seed=0, processes=2, rank=rank) for rank in (0, 1)]
    found = [list(share) for share in shares]
    assert len(found[0]) == len(found[1]) == len(shares[0]) == -(-number // (2 * size))
    assert {index for share in found for batch in share for index in batch} == set(range(number))


def test_a_balanced_epoch_draws_the_classes_equally_often(lengths: np.ndarray) -> None:
    labels = np.repeat([0, 1], [3000, 210])
    drawn = labels[np.concatenate(TokenBudgetSampler(lengths, 16, 0, labels).batches(0))]
    assert drawn.mean() == pytest.approx(0.5, abs=0.04)


def test_cuts_are_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        lengths = sorted(random.integers(1, 30, 9).tolist(), reverse=True)
        number = int(random.integers(1, 6))

        def largest(cuts: tuple[int, ...], lengths: list[int] = lengths) -> int:
            edges = [0, *cuts, len(lengths)]
            return max((end - start) * lengths[start] for start, end in pairwise(edges))

        cuts = equal_token_cuts(lengths, number)
        assert len(set(cuts)) == number - 1
        assert largest(tuple(cuts)) == min(map(largest, combinations(range(1, 9), number - 1)))


@pytest.mark.parametrize(("number", "drop_last"), [(24, False), (29, False), (25, False), (29, True)])
def test_processes_share_the_batches_of_one(lengths: np.ndarray, number: int, drop_last: bool) -> None:
    def order() -> LengthGroupedSampler:
        return LengthGroupedSampler(lengths[:number], 12, seed=3)

    shares = [SharedBatches(order(), 4, 3, rank, drop_last) for rank in range(3)]
    for epoch in range(2):
        for each in shares:
            each.epoch = epoch
        found = [list(each) for each in shares]
        assert {len(each) for each in found} == {len(shares[0])}
        if shares[2].lacks_last:
            assert [found[2].pop(), number] == [order().order(epoch)[24:25].tolist(), 25]
        if shares[1].lacks_last:
            found[1].pop()
        whole = batches_of(order().order(epoch), 12)[: number // 12 + (number % 12 > 0 and not drop_last)]
        together = [[*chain(*(each[step] for each in found if step < len(each)))] for step in range(len(whole))]
        assert together == [batch.tolist() for batch in whole]
