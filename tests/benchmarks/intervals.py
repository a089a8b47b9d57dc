"""Simulate tables with known expected scores: how often intervals contain them, and how often guessing is called better.

python tests/benchmarks/intervals.py 300    # tables
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers import simulation
from helpers.simulation import World, draw, expected

from peftkit.leaderboard.contrast import ALPHA, EntrySample, TaskSample, contrast, half_width, holm
from peftkit.leaderboard.intervals import Z, score_interval

LIMITS = {"cola": (-1.0, 1.0), "stsb": (-1.0, 1.0)}
WORLDS = {
    "three seeds": World(),
    "three seeds, noise different by method": World(unlike=1.0),
    "one seed": World(seeds=1, noise=0.0),
}


def main(tables: int) -> None:
    for name, world in WORLDS.items():
        inside: dict[tuple[str, str], list[bool]] = defaultdict(list)
        for number in range(tables):
            samples = draw(world, np.random.default_rng([11, number]), resamples=400)
            for task, tests in zip(
                world.tasks, contrast([against(s, np.zeros(s.examples)) for s in samples]), strict=True
            ):
                for method, (low, high) in enumerate(intervals(task, tests)):
                    inside[task, "peftkit"].append(low <= truth(task) <= high)
                    values = tests.sample.entries[method].values
                    if len(values) > 1:
                        half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
                        inside[task, "Student's t over seeds"].append(abs(values.mean() - truth(task)) <= half)
        for (task, kind), found in inside.items():
            print(f"{name} | {task} | {kind} | {share(found)}")
    simulation.TASKS |= {
        task: (metrics, n, 0.5, 0.5) for task, (metrics, n, _, _) in simulation.TASKS.items() if metrics == ["accuracy"]
    }
    for name, world in WORLDS.items():
        guessing = replace(world, tasks=("rte", "sst2"))
        false = [is_any_better(guessing, np.random.default_rng([12, number])) for number in range(tables)]
        print(f"{name} | guessing called better than the majority | {share(false)}")


def truth(task: str) -> float:
    metrics, _, labels, right = simulation.TASKS[task]
    return right if labels is None else float(expected(metrics, labels, np.array([right]))[0])


def against(sample: TaskSample, resampled: np.ndarray) -> TaskSample:
    """Return the pairs of each entry and one more that is the same in every seed."""
    count = len(sample.entries)
    scores = sample.entries[0].resampled
    assert scores is not None
    fixed = EntrySample(np.array([resampled.mean()]), np.zeros((len(scores), 1)), is_fixed=True)
    return replace(sample, entries=[*sample.entries, fixed], first=np.arange(count), second=np.full(count, count))


def intervals(task: str, tests) -> list[tuple[float, float]]:  # type: ignore[no-untyped-def]
    errors = half_width(ALPHA, tests) / Z
    found = [
        score_interval(float(d), float(e), LIMITS.get(task, (0.0, 1.0)), tests.sample.examples)
        for d, e in zip(tests.difference, errors, strict=True)
    ]
    return [each or (math.nan, math.nan) for each in found]


def is_any_better(world: World, random: np.random.Generator) -> bool:
    """Return whether any method of a table that guesses is significantly better than a constant answer."""
    tests = contrast([with_majority(sample, random) for sample in draw(world, random, resamples=400)])
    adjusted = holm(np.concatenate([each.p for each in tests]))
    return bool((adjusted[np.concatenate([each.difference for each in tests]) > 0] <= ALPHA).any())


def with_majority(sample: TaskSample, random: np.random.Generator) -> TaskSample:
    """Return the pairs of each entry and an answer that is right for an independent half of the examples."""
    right = (random.random(sample.examples) < 0.5).astype(float)
    count = len(sample.entries)
    scores = sample.entries[0].resampled
    assert scores is not None
    weights = random.multinomial(sample.examples, np.full(sample.examples, 1 / sample.examples), len(scores))
    resampled = (weights @ right / sample.examples)[:, None]
    is_plain = sample.entries[0].right is not None
    fixed = EntrySample(np.array([right.mean()]), resampled, right.astype(bool) if is_plain else None, is_fixed=True)
    return replace(sample, entries=[*sample.entries, fixed], first=np.arange(count), second=np.full(count, count))


def share(found: list[bool]) -> str:
    low, high = proportion_confint(sum(found), len(found), method="wilson")
    return f"{100 * np.mean(found):.1f} % ({100 * low:.1f} to {100 * high:.1f}), n={len(found)}"


if __name__ == "__main__":
    main(int(sys.argv[1]))
