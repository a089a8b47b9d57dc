"""Start RTE and STS-B from MRPC, and train four tasks one after the other; write docs/results/start.md.

python tests/benchmarks/start.py GLUE [NUMBER]    # GLUE: its parquet folders; NUMBER: of runs to train now

MiniLM with LoRA, three seeds. Stop it at will: finished runs are skipped by the same command, and the page has what has
finished. With one command a run, another process can train between two of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from peftkit.leaderboard.stats import task_score

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "outputs" / "start"
PAGE = ROOT / "docs" / "results" / "start.md"
SEEDS, TASKS = (0, 1, 2), ("mrpc", "rte", "stsb", "cola")
SETTINGS = [
    "model=minilm", "method=lora", "source=offline", "task.max_train_samples=500", "task.max_eval_samples=500",
    "train.per_device_train_batch_size=16", "train.num_train_epochs=3",
]  # fmt: skip
Run = tuple[str, int, str | None]  # task, seed, task of its start


def main(glue: str, number: str = "1000") -> None:
    left = int(number)
    for task, seed, start in runs():
        if find(task, seed, start) is None and left > 0:
            subprocess.run(command(glue, task, seed, start), check=True)
            left -= 1
    for seed in SEEDS:
        if left > 0 and all(find(*run) for run in chain(seed)):
            subprocess.run(continual(glue, seed), check=True)
            left -= 1
    PAGE.write_text(page(), encoding="utf-8")


def runs() -> Iterator[Run]:
    """Yield each run after the one that it starts from."""
    for seed in SEEDS:
        yield from [("mrpc", seed, None)]
        yield from ((task, seed, start) for task in ("rte", "stsb") for start in (None, "mrpc"))
    for seed in SEEDS:
        yield from (run for run in chain(seed) if run[0] in ("stsb", "cola"))


def chain(seed: int) -> list[Run]:
    """Return the runs of job=continual: each task from the one before, and each alone."""
    pairs = zip(TASKS, (None, *TASKS[:-1]), strict=True)
    return [(task, seed, start) for task, earlier in pairs for start in dict.fromkeys((earlier, None))]


def command(glue: str, task: str, seed: int, start: str | None) -> list[str]:
    settings = [*SETTINGS, f"data_root={glue}", f"out={OUT}", f"task={task}", f"seed={seed}"]
    if start is not None:
        settings += [f"start={find(start, seed, before(task, start))}"]
    return [sys.executable, "-m", "peftkit", *settings]


def before(task: str, start: str) -> str | None:
    """Return the start of a run's start: none where it is MRPC, in a chain the task before it."""
    return None if start == "mrpc" else TASKS[TASKS.index(start) - 1]


def continual(glue: str, seed: int) -> list[str]:
    settings = [*SETTINGS, f"data_root={glue}", f"out={OUT}", f"seed={seed}", f"tasks=[{','.join(TASKS)}]"]
    return [sys.executable, "-m", "peftkit", "job=continual", *settings]


def find(task: str, seed: int, start: str | None) -> Path | None:
    """Return the folder of a finished run, if any."""
    for file in sorted(OUT.glob(f"glue/{task}/minilm/lora/seed-{seed}-*/result.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["meta"]["status"] == "finished" and (record["audit"].get("start") or {}).get("task") == start:
            return file.parent
    return None


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def page() -> str:
    found = [result(folder) for run in runs() if (folder := find(*run)) is not None]
    device = sorted({each["meta"]["device"] for each in found})
    return f"""# Starting from a run, measured

`python tests/benchmarks/start.py GLUE`: MiniLM with LoRA (r=8, all linear layers), 500 training examples a task, up to 500 validation
examples, three epochs in batches of 16, learning rate 1e-3, not searched. {", ".join(device)}, shared with other work. Scores times 100: the mean of a
task's metrics.

## RTE and STS-B from MRPC

Of each seed the run from MRPC starts from MRPC's run of the same seed.

| task | from | seeds | score | each |
|---|---|---|---|---|
{chr(10).join(_start_rows())}

{chr(10).join(_gains())}

## Four tasks one after the other

`python -m peftkit job=continual tasks=[{",".join(TASKS)}] ...`: after each step, each task so far with the head of its own step.

{chr(10).join(_matrices()) or "Not measured yet."}
"""


def _scores(task: str, start: str | None) -> dict[int, float]:
    folders = {seed: find(task, seed, start) for seed in SEEDS}
    return {seed: 100 * task_score(result(folder)["scores"]) for seed, folder in folders.items() if folder is not None}


def _start_rows() -> Iterator[str]:
    for task, start in (("mrpc", None), ("rte", None), ("rte", "mrpc"), ("stsb", None), ("stsb", "mrpc")):
        if scores := [*_scores(task, start).values()]:
            spread = f" ± {stdev(scores):.1f}" if len(scores) > 1 else ""
            each = ", ".join(f"{score:.1f}" for score in scores)
            yield f"| {task} | {start or 'scratch'} | {len(scores)} | {fmean(scores):.1f}{spread} | {each} |"


def _gains() -> Iterator[str]:
    for task in ("rte", "stsb"):
        alone, started = _scores(task, None), _scores(task, "mrpc")
        if gains := [started[seed] - alone[seed] for seed in SEEDS if seed in alone and seed in started]:
            yield f"{task}: {fmean(gains):+.1f} by the start ({', '.join(f'{gain:+.1f}' for gain in gains)} by seed).\n"


def _matrices() -> Iterator[str]:
    for file in sorted(OUT.glob("glue/continual-*/minilm/lora/seed-*/result.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        scores, tasks = record["continual"], record["continual"]["tasks"]
        yield f"Seed {record['meta']['seed']}:\n"
        yield f"| after | {' | '.join(tasks)} |"
        yield f"|---|{'---|' * len(tasks)}"
        for name, row in zip([*tasks, "alone"], [*scores["matrix"], scores["alone"]], strict=True):
            cells = [f"{100 * score:.1f}" for score in row] + [""] * (len(tasks) - len(row))
            yield f"| {name} | {' | '.join(cells)} |"
        yield (
            f"\nAverage at the end {100 * scores['average']:.1f}, backward transfer "
            f"{100 * scores['backward_transfer']:+.1f}, forward transfer {100 * scores['forward_transfer']:+.1f}.\n"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
