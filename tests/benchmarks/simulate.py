"""Draw tables whose true differences are known, count what peftkit claims of them, and write docs/explanation/statistics.md.

python tests/benchmarks/simulate.py [PROCESSES] [TABLES]     # by default one process and 1000 tables: about an hour
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from statsmodels.stats.proportion import proportion_confint

HERE = Path(__file__).resolve().parents[2] / "docs"
sys.path.insert(0, str(HERE.parent / "tests"))

from helpers.simulation import TASKS, World, draw, naive, smallest_p  # noqa: E402

from peftkit.leaderboard.contrast import ALPHA, contrast, detectable, holm  # noqa: E402

# what is drawn, how it is told, and the part of the tables that is enough for it
NOTHING: list[tuple[str, World, float]] = [
    ("three seeds, methods equally noisy", World(), 1),
    ("three seeds, noise unlike by method (log sd 1: a 7th to 7 times)", World(unlike=1.0), 1),
    ("three seeds, nearly no noise of seeds", World(noise=0.002), 0.3),
    ("five seeds, noise unlike by method", World(seeds=5, unlike=1.0), 0.3),
    ("two seeds, noise unlike by method", World(seeds=2, unlike=1.0), 0.3),
    ("one seed (McNemar, bootstrap), no noise of seeds", World(seeds=1, noise=0.0), 0.3),
    ("three seeds, each falls to guessing by a chance of 10 %", World(collapse=0.1), 0.3),
]
PAIRS = len(TASKS) * World().methods * (World().methods - 1) // 2


def main(processes: int = 1, tables: int = 1000) -> None:
    start = time.time()
    with Pool(processes) as pool:
        none = [
            (name, _run(pool, partial(false_claims, world), n, round(share * tables)))
            for n, (name, world, share) in enumerate(NOTHING)
        ]
        found = _run(pool, partial(finds, World()), 91, round(0.4 * tables))
    (HERE / "explanation" / "statistics.md").write_text(page(none, found, tables, time.time() - start))


def false_claims(world: World, seed: Sequence[int]) -> dict[str, float]:
    """Return the smallest p of a table in which nothing differs, by peftkit's test and by two that see less."""
    cells = draw(world, np.random.default_rng(seed))
    return {"peftkit": smallest_p(contrast(cells)), **naive(cells)}


def finds(world: World, seed: Sequence[int]) -> list[tuple[float, bool]]:
    """Return for each task the difference that a table says it would have seen, and whether it sees it.

    The table is drawn twice from the same noise: without a difference, and with the first method that much better.
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


def page(none: list, found: list, tables: int, seconds: float) -> str:
    names = ["peftkit", "examples alone", "seeds alone"]
    lines = [HEADER, "| nothing differs | tables | peftkit | examples alone | seeds alone |", "|---|---|---|---|---|"]
    for name, results in none:
        cells = [_rate([r[test] <= ALPHA for r in results]) if test in results[0] else "" for test in names]
        lines.append(f"| {name} | {len(results):,} | {' | '.join(cells)} |")
    lines += [BETWEEN, "| task | examples | metrics | stated difference | found |", "|---|---|---|---|---|"]
    for place, (task, (metrics, examples, _, _)) in enumerate(TASKS.items()):
        least, middle, most = 100 * np.quantile([each[place][0] for each in found], [0.1, 0.5, 0.9])
        rate = _rate([each[place][1] for each in found])
        points = f"{middle:.1f} ({least:.1f} to {most:.1f}) points"
        lines.append(f"| {task} | {examples:,} | {', '.join(metrics)} | {points} | {rate} |")
    lines.append(f"| all | | | | {_rate([seen for each in found for _, seen in each])} |")
    return "\n".join(lines) + FOOTER.format(tables=tables, minutes=seconds / 60, power=len(found))


def _rate(found: Sequence[bool]) -> str:
    """Return a share with its 95 % interval (Clopper and Pearson)."""
    low, high = proportion_confint(sum(found), len(found), method="beta")
    return f"{100 * np.mean(found):.1f} % ({100 * low:.1f} to {100 * high:.1f})"


HEADER = f"""# What the leaderboard claims, and how often it is wrong

Two rows of a task differ when their expected scores do: over seeds that were not run and examples that were not asked.
A table is a sample of both, so a test that sees one of them alone makes claims that the next seed or the next
validation set takes back (Dietterich 1998; Bouckaert and Frank 2004). What is done (peftkit/leaderboard):

1. **Examples.** All predictions of a task are resampled together, 1,000 times (paired bootstrap: Efron and Tibshirani
   1993; Berg-Kirkpatrick et al. 2012): the same drawn examples for all rows and seeds, the task's own score, F1,
   Matthews and rank correlations included.
2. **Seeds.** A row's variance over seeds, less what its examples explain already (as Obuchowski and Rockette 1995 split
   readers from cases), is added for each of the two rows. Three seeds hardly tell a variance, and methods differ in
   theirs; so the rows of a task, and how alike the rows of a board are, inform each other's as in Smyth 2004, and p is
   the mean over the variances that the spreads allow (the Behrens-Fisher way) instead of at the one estimated. Seeds
   are not paired by number: what two methods share by the same order of rows would only make this cautious.
3. **Many pairs.** p is corrected after Holm (1979) over all pairs of all tasks of a board. Rows that share a letter
   are tied: no test tells them apart (letters after Piepho 2004). The interval of a difference is of that pair alone.
4. **One seed a row.** Exact McNemar for accuracy, else the bootstrap: they speak of other examples only, which the
   board says. A single seed among rows with several gets the spread that those show. Where predictions are missing,
   or a metric cannot be resampled (tagging F1, texts), seeds alone are tested, which the board says too.
5. **Power.** Per task, the smallest true difference that would have been found with 80 % power (Card et al. 2020), for
   the task's middle pair, were it the only one on the board: a tie is no proof of equality.

The best 40 rows of a task are tested in all pairs, the next 60 against the best, those beyond not at all.

## False claims

Tables of {World().methods} methods on {len(TASKS)} tasks, {PAIRS} pairs, in which no two methods differ: right answers
are correlated between methods and between seeds, and seeds move a method by about a point. The share of tables with
any claim at all, which must not pass 5 % (95 % interval in brackets); beside it two common tests with the same
correction, which see half of the noise: the paired bootstrap of the mean scores, and the paired t test over seeds.
"""
BETWEEN = """
The last line goes beyond what the test assumes: a method that fails now and then, and by luck in none of its seeds,
looks better than it is, to any test. Look at the seeds of such methods, and run more.

## A known difference

Each table states the smallest difference that it would have seen on each task (below: the median, and between which
values eight of ten tables lie). The same table is drawn again with the first method better by just that much than the
others, and is to tell it from the second, after Holm, in 80 % of cases. It does so a little more often: what is
stated is Holm's first step, and each of the seven differences that is found makes the next one easier.
"""
FOOTER = """

```bash
python tests/benchmarks/simulate.py 2 {tables}    # processes, tables; {minutes:.0f} minutes here
```

The fast form of both is in tests/leaderboard/test_contrast.py, the 1,000 tables there as slow tests.
"""

if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
