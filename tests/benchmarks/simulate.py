"""Simulate boards whose true differences are known, and print how often peftkit's tests claim one.

python tests/benchmarks/simulate.py [PROCESSES] [TABLES]     # one process and 1000 tables by default: about an hour

The two tables are those of docs/explanation/statistics.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from statsmodels.stats.proportion import proportion_confint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.simulation import TASKS, World, draw, naive, smallest_p

from peftkit.leaderboard.contrast import ALPHA, contrast, detectable, holm

# the simulated worlds without a difference: name, parameters, and share of TABLES to simulate
NO_DIFFERENCE: list[tuple[str, World, float]] = [
    ("three seeds, methods equally noisy", World(), 1),
    ("three seeds, noise different by method (log sd 1: a 7th to 7 times)", World(unlike=1.0), 1),
    ("three seeds, nearly no seed noise", World(noise=0.002), 0.3),
    ("five seeds, noise different by method", World(seeds=5, unlike=1.0), 0.3),
    ("two seeds, noise different by method", World(seeds=2, unlike=1.0), 0.3),
    ("one seed (McNemar, bootstrap), no seed noise", World(seeds=1, noise=0.0), 0.3),
    ("three seeds, each fails completely with probability 10 %", World(collapse=0.1), 0.3),
]
PAIRS = len(TASKS) * World().methods * (World().methods - 1) // 2


def main(processes: int = 1, tables: int = 1000) -> None:
    with Pool(processes) as pool:
        same = [
            (name, _run(pool, partial(false_claims, world), n, round(share * tables)))
            for n, (name, world, share) in enumerate(NO_DIFFERENCE)
        ]
        found = _run(pool, partial(finds, World()), 91, round(0.4 * tables))
    print("\n".join([*false_claim_table(same), "", *detection_table(found)]))


def false_claims(world: World, seed: Sequence[int]) -> dict[str, float]:
    """Return the smallest p of a table without a difference, by peftkit's test and by two simpler ones."""
    cells = draw(world, np.random.default_rng(seed))
    return {"peftkit": smallest_p(contrast(cells)), **naive(cells)}


def finds(world: World, seed: Sequence[int]) -> list[tuple[float, bool]]:
    """Return for each task the minimum detectable difference of a table, and whether a difference of that size is found.

    The table is simulated twice with the same noise: without a difference, and with the first method better by that much.
    """
    stated = [detectable(each, PAIRS) or np.nan for each in contrast(draw(world, np.random.default_rng(seed)))]
    gains = dict(zip(TASKS, stated, strict=True))
    tests = contrast(draw(replace(world, gains=gains), np.random.default_rng(seed)))
    adjusted = np.split(holm(np.concatenate([each.p for each in tests])), len(tests))
    return [(gain, bool(p[0] <= ALPHA)) for gain, p in zip(stated, adjusted, strict=True)]


def _run(pool: Any, draws: Callable, world: int, count: int) -> list:
    found = []
    for done, each in enumerate(pool.imap(draws, [(world, table) for table in range(count)], chunksize=4), 1):
        found.append(each)
        if done % 50 == 0:
            print(world, done, "of", count, flush=True, file=sys.stderr)
    return found


def false_claim_table(results: list) -> list[str]:
    """Return the share of tables with any claim, per world and test."""
    names = ["peftkit", "examples only", "seeds only"]
    lines = ["| no difference | tables | peftkit | examples only | seeds only |", "|---|---|---|---|---|"]
    for world, tables in results:
        rates = [_rate([p[test] <= ALPHA for p in tables]) if test in tables[0] else "" for test in names]
        lines.append(f"| {world} | {len(tables):,} | {' | '.join(rates)} |")
    return lines


def detection_table(tables: list) -> list[str]:
    """Return the minimum detectable difference per task, and how often a true difference of that size is found."""
    lines = ["| task | examples | metrics | stated difference | found |", "|---|---|---|---|---|"]
    for place, (task, (metrics, examples, _, _)) in enumerate(TASKS.items()):
        least, middle, most = 100 * np.quantile([each[place][0] for each in tables], [0.1, 0.5, 0.9])
        rate = _rate([each[place][1] for each in tables])
        points = f"{middle:.1f} ({least:.1f} to {most:.1f}) points"
        lines.append(f"| {task} | {examples:,} | {', '.join(metrics)} | {points} | {rate} |")
    return [*lines, f"| all | | | | {_rate([found for each in tables for _, found in each])} |"]


def _rate(found: Sequence[bool]) -> str:
    """Return a share with its 95 % interval (Clopper and Pearson)."""
    low, high = proportion_confint(sum(found), len(found), method="beta")
    return f"{100 * np.mean(found):.1f} % ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
