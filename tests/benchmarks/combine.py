"""Task arithmetic on real tasks: addition, negation and interpolation of runs, and LoRA extracted from full fine-tuning.

    PYTHONPATH=.:tests python tests/benchmarks/combine.py DATA_ROOT OUT [--methods full lora] [--seeds 0 1 2] [--seconds 240]

Trains MiniLM on SST-2 and on part-of-speech tags (DATA_ROOT/sst2, DATA_ROOT/ud_ewt), combines the runs, and prints a table
in Markdown. Finished runs are skipped, so that the same command continues after --seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from helpers import commands

from peftkit.data.offline_corpus import offline_documents
from peftkit.leaderboard.stats import task_score
from peftkit.results.run_result import RunResult

SCALES = (-1.0, 0.0, 0.25, 0.5, 0.75, 1.0)
RATES = {"full": 1e-4, "lora": 1e-3}
TASKS = ("sst2", "ud_ewt")
TRAINED, EPOCHS = 600, 2
RANKS = (8, 64)
EVALUATED, DOCUMENTS = 400, 100  # examples of each task, and documents of the offline text that general loss is of


class Session:
    """Runs jobs until the time is up; each is skipped where its result exists."""

    def __init__(self, data_root: str, out: str, seconds: float) -> None:
        self.shared = ["source=offline", f"data_root={data_root}", f"out={out}", "threads=1"]
        self.end = time.monotonic() + seconds
        self.text = Path(out, "general.txt")
        if not self.text.is_file():
            self.text.parent.mkdir(parents=True, exist_ok=True)
            self.text.write_text("\n".join(offline_documents()[1][:DOCUMENTS]).replace("\n\n", "\n"), encoding="utf-8")

    def run(self, *overrides: str) -> list[RunResult]:
        if time.monotonic() > self.end:
            sys.exit("the time is up; the same command continues")
        folders: list[Path] = []
        commands.run([*self.shared, *overrides], on_start=folders.append)
        return [RunResult(folder) for folder in folders]

    def train(self, method: str, task: str, seed: int) -> RunResult:
        return self.run(
            "model=minilm", f"method={method}", f"task={task}", f"seed={seed}", f"train.learning_rate={RATES[method]}",
            f"train.num_train_epochs={EPOCHS}", f"task.max_train_samples={TRAINED}",
            f"task.max_eval_samples={EVALUATED}", "train.disable_tqdm=true",
        )[0]  # fmt: skip

    def combine(self, runs: list[RunResult], weights: list[float], *more: str) -> list[RunResult]:
        named = ",".join(str(run.folder) for run in runs)
        return self.run(
            "job=combine", f"input={self.text}", f"runs=[{named}]", f"weights={weights}".replace(" ", ""), *more
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_root")
    parser.add_argument("out")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(RATES))
    given = parser.parse_args()
    session = Session(given.data_root, given.out, given.seconds)
    rows: dict[tuple[str, ...], list[float]] = {}
    for seed in given.seeds:
        for method in given.methods:
            for key, value in measured(session, method, seed):
                rows.setdefault((method, *key), []).append(value)
    print("| method | what | value | mean | standard deviation | seeds |\n|---|---|---|---|---|---|")
    for key, values in rows.items():
        spread = stdev(values) if len(values) > 1 else 0.0
        print(f"| {' | '.join(key)} | {mean(values):.3f} | {spread:.3f} | {len(values)} |")


def measured(session: Session, method: str, seed: int) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield what is measured for a seed: the names of a combination and of a value, and the value."""
    runs = [session.train(method, task, seed) for task in TASKS]
    scales = f"combine.interpolate={list(SCALES)}".replace(" ", "")
    yield from _curve(session.combine(runs[:1], [1], scales)[0])
    for run in runs:
        yield ("alone", f"{run.config.task.name} score"), task_score(run.record["scores"])
    for weights in ([1.0, 1.0], [-1.0, 1.0]):
        for each in session.combine(runs, weights):
            yield from _scores(f"weights {weights}", each)
    for rank in RANKS if method == "full" else ():
        (found,) = session.combine(runs[:1], [1], f"combine.extract_rank={rank}")
        yield from _scores(f"LoRA of rank {rank}", found)
        yield (f"LoRA of rank {rank}", "share of the change kept"), found.record["combination"]["extraction"]["kept"]
    for name in ("linear", "svd") if method == "lora" else ():
        for each in session.combine(runs, [1, 1], f"combine.method={name}"):
            yield from _scores(name, each)
            yield (name, "distance to the sum"), each.record["combination"]["distance_to_sum"]


def _curve(run: RunResult) -> Iterator[tuple[tuple[str, ...], float]]:
    found: dict[str, Any] = run.record["forgetting"]
    for point in found["curve"]:
        yield (f"{run.config.task.name} at scale {point['scale']:g}", "score"), point["score"]
        yield (f"{run.config.task.name} at scale {point['scale']:g}", found["measure"]), point["loss"]


def _scores(name: str, run: RunResult) -> Iterator[tuple[tuple[str, ...], float]]:
    found: dict[str, Any] = run.record["forgetting"]
    yield (name, f"{run.config.task.name} score"), task_score(run.record["scores"])
    yield (name, f"{run.config.task.name} {found['measure']}"), found["after"]


if __name__ == "__main__":
    main()
