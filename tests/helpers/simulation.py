"""Synthetic predictions with known true differences, and the tests of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from scipy import optimize, stats

from peftkit.leaderboard.contrast import Contrast, EntrySample, TaskSample, all_pairs
from peftkit.leaderboard.paired import scores_by_resample

# task: metrics, validation examples, share of class 1 (None: numbers), share right or correlation
TASKS: dict[str, tuple[list[str], int, float | None, float]] = {
    "rte": (["accuracy"], 277, 0.5, 0.62), "mrpc": (["accuracy", "f1"], 408, 0.68, 0.80),
    "sst2": (["accuracy"], 872, 0.5, 0.89), "cola": (["matthews_correlation"], 1043, 0.69, 0.78),
    "stsb": (["pearson"], 1500, None, 0.82),
}  # fmt: skip
# components of the standard normal luck of an example: the example itself, method x example, method x example x seed
SHARED, OWN, AGAIN = np.sqrt(1 - 0.4**2 - 0.4**2), 0.4, 0.4
POINTS, WEIGHTS = np.polynomial.hermite_e.hermegauss(31)  # to average over seeds


@dataclass(frozen=True)
class World:
    """The distribution of tables: methods of equal expected score except for `gains` and `levels`, some with noisier seeds."""

    methods: int = 8
    seeds: int = 3
    noise: float = 0.04  # of a seed, in standard deviations of an example's luck: about a point of accuracy
    unlike: float = 0.0  # standard deviation of the logarithm of the methods' noise; 1: from a 7th to 7 times as noisy
    collapse: float = 0.0  # chance that a seed of a method collapses to guessing
    gains: Mapping[str, float] = field(default_factory=dict)  # task -> what the first method's score is higher by
    levels: tuple[float, ...] = ()  # what each method's score is higher by, on every task
    tasks: tuple[str, ...] = tuple(TASKS)


def draw(world: World, random: np.random.Generator, resamples: int = 1000) -> list[TaskSample]:
    """Return one table: the scores of each task."""
    methods = np.exp(world.unlike * random.normal(size=world.methods))
    samples = []
    for task in world.tasks:
        noise = world.noise * methods * np.exp(0.3 * world.unlike * random.normal(size=world.methods))
        gains = np.array(world.levels or np.zeros(world.methods))
        gains[0] += world.gains.get(task, 0.0)
        labels, predictions = (
            _numbers(task, world, noise, gains, random)
            if TASKS[task][2] is None
            else _classes(task, world, noise, gains, random)
        )
        metrics, examples, _, _ = TASKS[task]
        splits = np.full(examples, "validation")
        flat = predictions.reshape(-1, examples)
        whole, resampled = scores_by_resample(metrics, labels, flat, splits, resamples, int(random.integers(1 << 30)))
        values = whole.reshape(world.methods, world.seeds)
        parts = resampled.reshape(-1, world.methods, world.seeds)
        is_plain = metrics == ["accuracy"] and world.seeds == 1
        entries = [
            EntrySample(values[m], parts[:, m], predictions[m, 0] == labels if is_plain else None)
            for m in range(world.methods)
        ]
        samples.append(TaskSample(entries, examples, *all_pairs(world.methods, world.methods, world.methods)))
    return samples


def _classes(
    task: str, world: World, noise: np.ndarray, gains: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    metrics, examples, share, right = TASKS[task]
    assert share is not None
    labels = (random.random(examples) < share).astype(int)
    goal = float(expected(metrics, share, np.array([right]))[0])
    luck = random.normal(size=examples)
    predictions = np.empty((world.methods, world.seeds, examples), int)
    for method in range(world.methods):
        level = _level(tuple(metrics), share, goal + gains[method], noise[method], world.collapse)
        own = random.normal(size=examples)
        for seed in range(world.seeds):
            again = random.normal(size=examples)
            reached = 0.0 if random.random() < world.collapse else level + noise[method] * random.normal()
            is_right = SHARED * luck + OWN * own + AGAIN * again < reached
            predictions[method, seed] = np.where(is_right, labels, 1 - labels)
    return labels, predictions


@cache
def _level(metrics: tuple[str, ...], share: float, goal: float, noise: float, collapse: float) -> float:
    """Return the level whose score, averaged over seeds, is the goal: noisier methods are not worse on average."""
    fallen = collapse * float(expected(metrics, share, np.array([0.5]))[0])

    def gap(level: float) -> float:
        found = expected(metrics, share, stats.norm.cdf(level + noise * POINTS))
        return (1 - collapse) * float(found @ WEIGHTS / WEIGHTS.sum()) + fallen - goal

    return float(optimize.brentq(gap, -8, 8))


def expected(metrics: Sequence[str], share: float, right: np.ndarray) -> np.ndarray:
    """Return the task's score over infinitely many examples, of which either class is right as often."""
    true, predicted = share * right, share * right + (1 - share) * (1 - right)
    forms = {
        "accuracy": right,
        "f1": 2 * true / (predicted + share),
        "matthews_correlation": (true - predicted * share) / np.sqrt(share * (1 - share) * predicted * (1 - predicted)),
    }
    return np.mean([forms[metric] for metric in metrics], axis=0)


def _numbers(
    task: str, world: World, noise: np.ndarray, gains: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    _, examples, _, right = TASKS[task]
    labels, luck = random.normal(size=(2, examples))
    predictions = np.empty((world.methods, world.seeds, examples))
    for method in range(world.methods):
        own = random.normal(size=examples)
        level = (right + gains[method]) / (1 - world.collapse)
        for seed in range(world.seeds):
            again = random.normal(size=examples)
            bounded = np.clip(0.3 * noise[method] * random.normal(), -0.15, 0.15)  # even, so that the mean stays
            reached = 0.0 if random.random() < world.collapse else min(level + bounded, 0.99)
            error = SHARED * luck + OWN * own + AGAIN * again
            predictions[method, seed] = reached * labels + np.sqrt(1 - reached**2) * error
    return labels, predictions


def smallest_p(tests: Sequence[Contrast]) -> float:
    """Return the smallest p of a table after Holm, which is Bonferroni's for the smallest."""
    p = np.concatenate([each.p for each in tests])
    return float(min(1.0, p.min() * len(p)))


def naive(samples: Sequence[TaskSample]) -> dict[str, float]:
    """Return the smallest p, times the pairs, of tests with only one source of noise: examples, or seeds."""
    over: dict[str, list[float]] = {"examples only": [], "seeds only": []}
    for sample in samples:
        for one, other in zip(sample.first, sample.second, strict=True):
            a, b = sample.entries[one], sample.entries[other]
            assert a.resampled is not None and b.resampled is not None
            gap, spread = a.values.mean() - b.values.mean(), (a.resampled.mean(1) - b.resampled.mean(1)).std(ddof=1)
            over["examples only"].append(2 * stats.norm.sf(abs(gap) / spread))
            if len(a.values) > 1:
                over["seeds only"].append(_paired_t(a.values - b.values))
    return {name: float(np.nanmin(p) * len(p)) for name, p in over.items() if p}


def _paired_t(gaps: np.ndarray) -> float:
    spread = max(gaps.std(ddof=1), 1e-9)
    return float(2 * stats.t.sf(abs(gaps.mean()) / spread * np.sqrt(len(gaps)), len(gaps) - 1))
