"""The tasks of a run are mixed as the T5 paper has it, and an epoch depends on the seed and its number only."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from peftkit.data.mixing import JoinedExamples, MixedBatches, TaskCollator, examples_of_epoch, mixing_rates

SIZES = [8551, 3668, 2490, 100]


def by_formula(sizes: list[int], limit: float, temperature: float) -> list[float]:
    """Raffel et al. 2020, section 3.5.2, term by term."""
    limited = [min(size, limit) for size in sizes]
    rates = [(each / sum(limited)) ** (1 / temperature) for each in limited]
    return [rate / sum(rates) for rate in rates]


@pytest.mark.parametrize("limit", [None, 3000, 50])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_the_rates_are_those_of_the_formula(limit: int | None, temperature: float) -> None:
    found = mixing_rates(SIZES, "temperature", limit, temperature)
    np.testing.assert_allclose(found, by_formula(SIZES, limit or 1e9, temperature), rtol=1e-12)
    proportional = mixing_rates(SIZES, "proportional", limit, temperature)
    np.testing.assert_allclose(proportional, by_formula(SIZES, limit or 1e9, 1.0), rtol=1e-12)
    np.testing.assert_allclose(mixing_rates(SIZES, "equal"), [0.25] * 4)


def test_a_high_temperature_is_equal_mixing_and_one_is_proportional() -> None:
    np.testing.assert_allclose(mixing_rates(SIZES, "temperature", None, 1e9), [0.25] * 4, atol=1e-8)
    np.testing.assert_allclose(mixing_rates(SIZES, "temperature", None, 1.0), np.array(SIZES) / sum(SIZES))


def test_an_epoch_has_as_many_examples_as_the_tasks_up_to_the_limit() -> None:
    counts = examples_of_epoch(SIZES, mixing_rates(SIZES, "proportional"))
    assert counts.tolist() == SIZES
    counts = examples_of_epoch(SIZES, mixing_rates(SIZES, "proportional", 1000), 1000)
    assert counts.tolist() == [1000, 1000, 1000, 100]
    counts = examples_of_epoch([10, 10, 11], mixing_rates([10, 10, 11], "equal"))
    assert counts.sum() == 31 and set(counts.tolist()) <= {10, 11}


@pytest.mark.parametrize("is_homogeneous", [True, False])
def test_an_epoch_of_proportional_mixing_has_every_example_once(is_homogeneous: bool) -> None:
    lengths = [np.arange(1, 21), np.arange(1, 8)]
    sampler = MixedBatches(lengths, [20, 7], 4, seed=3, is_homogeneous=is_homogeneous)
    batches = sampler.batches(0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(27))
    assert len(batches) == len(sampler) == (7 if not is_homogeneous else 5 + 2)
    tasks = [{number >= 20 for number in batch} for batch in batches]
    assert all(len(each) == 1 for each in tasks) == is_homogeneous
    again = MixedBatches(lengths, [20, 7], 4, seed=3, is_homogeneous=is_homogeneous)
    again.epoch = 5
    assert [batch.tolist() for batch in sampler.batches(5)] == list(again)
    assert [batch.tolist() for batch in sampler.batches(1)] != [batch.tolist() for batch in batches]


def test_all_examples_of_a_task_come_before_one_comes_again() -> None:
    sampler = MixedBatches([np.ones(10), np.ones(40)], [25, 25], 8, seed=0)
    drawn = [sampler.drawn(0, epoch).tolist() for epoch in range(4)]  # 2.5 passes over the small task in each epoch
    assert all(len(each) == 25 for each in drawn)
    flat = [number for each in drawn for number in each]
    assert all(sorted(flat[start : start + 10]) == list(range(10)) for start in range(0, 100, 10))
    counts = Counter(number for epoch in range(8) for number in sampler.drawn(1, epoch).tolist())
    assert set(counts) == set(range(10, 50)) and set(counts.values()) == {5}


def test_a_batch_has_a_part_for_each_task() -> None:
    examples = JoinedExamples([[{"x": 1}, {"x": 2}], [{"y": 3}]])
    assert len(examples) == 3 and [examples[number][0] for number in range(3)] == [0, 0, 1]
    collate = TaskCollator([lambda part: {"x": [each["x"] for each in part]}, lambda part: {"n": len(part)}])
    assert collate([examples[2], examples[1], examples[0]]) == {0: {"x": [2, 1]}, 1: {"n": 1}}
