"""Simulate sweeps with sequential seeds: false claims, runs saved, and changes of the verdict against all seeds.

python tests/benchmarks/sequential.py TABLES SEED OUT.json [PROCESSES]

The table that it prints is that of docs/explanation/statistics.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from statsmodels.stats.proportion import proportion_confint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.simulation import World, draw

from peftkit.leaderboard.contrast import ALPHA, TaskSample, contrast, holm
from peftkit.leaderboard.sequential import FIRST_LOOK, LEVEL, settled

SEEDS, RESAMPLES = 5, 300
FULL = 0  # the method that is compared with all others
BASE = World(methods=6, seeds=SEEDS, tasks=("rte", "mrpc", "sst2"))
GAPS = (0.0, 0.0, 0.0, -0.08, -0.08, -0.08)  # so large that two in five of the lower methods stop early
REAL = (0.0, 0.0, -0.01, -0.03, -0.08, -0.2)
WORLDS = {
    "no difference": BASE,
    "no difference, noise different by method": replace(BASE, unlike=1.0),
    "three methods lower by 8 points": replace(BASE, levels=GAPS),
    "three methods lower by 8 points, noise different by method": replace(BASE, levels=GAPS, unlike=1.0),
    "methods lower by 0, 1, 3, 8 and 20 points": replace(BASE, levels=REAL),
}
Claims = set[tuple[int, int, int]]  # task, better method, worse method


def main(tables: int, seed: int, file: Path, processes: int = 1) -> None:
    found = {}
    with Pool(processes) as pool:
        for number, (name, world) in enumerate(WORLDS.items()):
            draws = [(seed, number, table) for table in range(tables)]
            found[name] = summary(pool.map(partial(compare, world), draws, chunksize=4))
            print(f"| {name} | {' | '.join(_cells(found[name]))} |", flush=True)
    record = {"tables": tables, "seed": seed, "seeds": SEEDS, "first_look": FIRST_LOOK, "level": LEVEL}
    file.write_text(json.dumps({**record, "worlds": found}, indent=1) + "\n")


def compare(world: World, seed: Sequence[int]) -> dict[str, Any]:
    """Return false claims, changed verdicts and runs of one table, with all seeds and with sequential ones."""
    samples = draw(world, np.random.default_rng(seed), RESAMPLES)
    levels = world.levels or (0.0,) * world.methods
    seeds = sequential_seeds(samples)
    every, fewer = claims(samples), claims(truncated(samples, seeds))
    against_full = [{each for each in found if FULL in each[1:]} for found in (every, fewer)]
    pairs = len(samples) * (world.methods - 1)
    return {
        "false": any(levels[better] <= levels[worse] for _, better, worse in fewer),
        "false_all": any(levels[better] <= levels[worse] for _, better, worse in every),
        "changed": len(against_full[0] ^ against_full[1]) / pairs,
        "lost": len(every - fewer),
        "gained": len(fewer - every),
        "claims": len(every),
        "runs": float(np.mean(seeds) / SEEDS),
    }


def sequential_seeds(samples: Sequence[TaskSample]) -> np.ndarray:
    """Return (tasks, methods): the seeds of each entry when looks decide which of them continue."""
    seeds = np.full((len(samples), len(samples[0].entries)), SEEDS)
    for look in range(FIRST_LOOK, SEEDS):
        now = truncated(samples, np.minimum(seeds, look))
        differing = claims(now, LEVEL)
        for task, sample in enumerate(now):
            ranked = sorted(range(len(sample.entries)), key=lambda n: -sample.entries[n].values.mean())
            pairs = {(better, worse) for place, better, worse in differing if place == task}
            for entry in settled(ranked, [FULL], pairs):
                seeds[task, entry] = min(seeds[task, entry], look)
    return seeds


def truncated(samples: Sequence[TaskSample], seeds: np.ndarray) -> list[TaskSample]:
    """Return the samples with the first seeds of each entry."""
    return [
        replace(
            sample,
            entries=[
                replace(entry, values=entry.values[:n], resampled=entry.resampled[:, :n])
                for entry, n in zip(sample.entries, counts, strict=True)
                if entry.resampled is not None
            ],
        )
        for sample, counts in zip(samples, seeds, strict=True)
    ]


def claims(samples: Sequence[TaskSample], level: float = ALPHA) -> Claims:
    """Return the significant differences of a table."""
    tests = contrast(samples)
    adjusted = np.split(holm(np.concatenate([each.p for each in tests])), len(tests))
    found = set()
    for task, (each, p) in enumerate(zip(tests, adjusted, strict=True)):
        for n in np.flatnonzero(p <= level):
            pair = int(each.sample.first[n]), int(each.sample.second[n])
            found.add((task, *(pair if each.difference[n] > 0 else pair[::-1])))
    return found


def summary(tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return shares over tables, false claims with their 95 % interval (Clopper and Pearson)."""
    total = {name: float(np.mean([each[name] for each in tables])) for name in tables[0]}
    intervals = {
        f"{name}_interval": proportion_confint(sum(each[name] for each in tables), len(tables), method="beta")
        for name in ("false", "false_all")
    }
    return {**total, **intervals}


def _cells(found: dict[str, Any]) -> list[str]:
    rates = [
        f"{100 * found[name]:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        for name in ("false_all", "false")
        for low, high in [found[f"{name}_interval"]]
    ]
    shares = [f"{100 * each:.1f} %" for each in (1 - found["runs"], found["changed"])]
    return [*rates, *shares, f"{found['lost']:.2f} of {found['claims']:.1f}, {found['gained']:.2f} new"]


if __name__ == "__main__":
    tables, seed, file, *processes = sys.argv[1:]
    main(int(tables), int(seed), Path(file), *map(int, processes))
