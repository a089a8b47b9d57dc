"""Measure how the cost of a command grows, in user CPU seconds of one thread, and plot it.

python tests/benchmarks/growth.py FOLDER [SERIES ...]     # growth.json and growth.png; by default all series

The slope of each series is that of the logarithm of its cost, less that of its smallest size, against the logarithm
of its size (less the smallest): 1 is linear. The figures in docs/results/growth.md are of this script.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.synthetic_board import METHODS, TASKS, make_board

WORDS = [
    "the",
    "film",
    "is",
    "a",
    "very",
    "good",
    "and",
    "old",
    "story",
    "of",
    "my",
    "own",
    "family",
    "that",
    "we",
    "all",
]
RUN = ["task.text=[text]", "source=offline", "method=lora", "train.num_train_epochs=1", "train.disable_tqdm=true"]


@dataclass(frozen=True)
class Series:
    """Commands of growing size: `prepare` writes what one needs to a folder, and returns its overrides."""

    unit: str
    sizes: tuple[int, ...]
    prepare: Callable[[int, Path], list[str]]


def examples(size: int, folder: Path, length: int = 16) -> list[str]:
    return [
        "model=minilm",
        "task=classification",
        f"task.dataset={_table(folder, size, length)}",
        *RUN,
        f"out={folder}",
    ]


def lengths(size: int, folder: Path) -> list[str]:
    return [*examples(128, folder, size), f"task.max_length={size}"]


def widths(size: int, folder: Path) -> list[str]:
    """Write a BERT of two layers and this width, whose vocabulary is WORDS."""
    from transformers import BertConfig, BertModel, BertTokenizer

    checkpoint, special = folder / "checkpoint", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *dict.fromkeys(WORDS)]
    BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)}).save_pretrained(checkpoint)
    shape = {"hidden_size": size, "num_attention_heads": size // 64, "intermediate_size": 4 * size}
    BertModel(BertConfig(vocab_size=len(vocabulary), num_hidden_layers=2, **shape)).save_pretrained(checkpoint)
    return [*examples(256, folder)[1:], "model=bert", f"model.checkpoint={checkpoint}"]


def sweeps(size: int, folder: Path) -> list[str]:
    return ["-m", *examples(64, folder), f"seed=range({size})"]


def inspections(size: int, folder: Path) -> list[str]:
    return [
        "job=inspect",
        "task=classification",
        f"task.dataset={_table(folder, size, 16)}",
        "task.text=[text]",
        f"output={folder}/page.html",
    ]


def plans(size: int, folder: Path) -> list[str]:
    return ["job=plan", *examples(size, folder)]


def boards(size: int, folder: Path) -> list[str]:
    make_board(folder, seeds=5, rates=max(size // (5 * len(METHODS) * len(TASKS)), 1), extras=False)
    return ["job=leaderboard", f"out={folder}"]


def wide_boards(size: int, folder: Path) -> list[str]:
    """Write 10,000 runs over this number of tasks."""
    tasks, methods = [f"{task}-{number}" for task in TASKS for number in range(size // len(TASKS))], [*METHODS][:10]
    rates = 10_000 // (5 * len(methods) * len(tasks))
    make_board(folder, seeds=5, rates=rates, extras=False, tasks=tasks, methods=methods)
    return ["job=leaderboard", f"out={folder}"]


def listings(size: int, folder: Path) -> list[str]:
    boards(size, folder)
    return ["job=runs", f"out={folder}"]


SERIES = {
    "training": Series("examples of 16 tokens", (128, 512, 1024, 2048), examples),
    "length": Series("tokens of each of 128 examples", (8, 32, 64, 128), lengths),
    "width": Series("width of a BERT of two layers", (64, 128, 256, 512), widths),
    "sweep": Series("runs of 64 examples", (1, 2, 4, 8), sweeps),
    "inspect": Series("examples of job=inspect", (1_000, 16_000, 64_000, 128_000), inspections),
    "plan": Series("examples of job=plan", (1_000, 16_000, 64_000, 128_000), plans),
    "leaderboard": Series("results of job=leaderboard", (300, 900, 3_000, 9_000), boards),
    "tasks": Series("tasks of job=leaderboard with 10,000 results", (5, 10, 25, 50), wide_boards),
    "runs": Series("results of job=runs", (300, 900, 3_000, 9_000), listings),
}


def main(folder: Path, names: Sequence[str] = ()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "growth.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    for name in names or SERIES:
        found[name] = measure(SERIES[name])
        points = ", ".join(f"{n:,}: {seconds:.1f}" for n, seconds in found[name]["points"])
        print(f"{name}: {points} s; slope {found[name]['slope']:.2f}", flush=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
    plot(found, folder / "growth.png")


def measure(series: Series) -> dict[str, Any]:
    """Return the points of a series, its slope, and the machine."""
    points = []
    for size in series.sizes:
        with tempfile.TemporaryDirectory() as temporary:
            command = [sys.executable, "-m", "peftkit", *series.prepare(size, Path(temporary))]
            points.append((size, cpu_seconds(command)))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, one thread"
    date = datetime.now(UTC).date().isoformat()
    return {"unit": series.unit, "points": points, "slope": slope(points), "machine": machine, "date": date}


def cpu_seconds(command: Sequence[str]) -> float:
    """Return the user CPU seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def slope(points: Sequence[tuple[int, float]]) -> float:
    """Return the slope of the logarithms, without the cost of the smallest size."""
    sizes, seconds = np.array(points, float).T
    return float(np.polyfit(np.log(sizes[1:] - sizes[0]), np.log(np.maximum(seconds[1:] - seconds[0], 1e-3)), 1)[0])


def plot(found: dict[str, Any], file: Path) -> None:
    """Draw a panel for each series, with a line of slope 1."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(2.6 * len(found), 2.8), squeeze=False, layout="constrained")
    for panel, (name, each) in zip(panels[0], found.items(), strict=True):
        sizes, seconds = np.array(each["points"], float).T
        panel.loglog(sizes[1:] - sizes[0], seconds[1:] - seconds[0], "o-", label=f"slope {each['slope']:.2f}")
        last = (seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0])
        panel.loglog(sizes[1:] - sizes[0], last * (sizes[1:] - sizes[0]), ":", color="gray", label="linear")
        panel.set(title=name, xlabel=each["unit"])
        panel.legend(fontsize=7)
    panels[0, 0].set_ylabel("user CPU seconds, less the smallest size")
    figure.savefig(file, dpi=150)


def _table(folder: Path, size: int, length: int) -> Path:
    """Write examples of random words, of this number of tokens each."""
    random = np.random.default_rng(0)
    file = folder / "examples.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "label"])
        for row in random.integers(0, len(WORDS), (size, length - 2)):
            writer.writerow([" ".join(WORDS[n] for n in row), ("no", "yes")[int(row[0]) % 2]])
    return file


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
