"""CPU seconds, padding and scores of batches of equal numbers of tokens and of examples of similar length.

    python tests/benchmarks/token_budget.py DATA_ROOT [task ...]

MiniLM with LoRA, 1,000 training examples, one epoch, batches of 32, six seeds. Both kinds of batches alternate: A B A B.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
SEEDS = range(6)
STRATEGIES = ("group_by_length", "token_budget")


def main(data_root: str, tasks: list[str]) -> None:
    import peftkit
    from peftkit import training

    seconds: list[float] = []
    fit = training.fit

    def timed(trainer: Any, checkpoints: Path) -> Any:
        started = time.process_time()
        found = fit(trainer, checkpoints)
        seconds.append(time.process_time() - started)
        return found

    training.fit = timed
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 32, "disable_tqdm": True}
    limit: dict[str, Any] = {"task.max_train_samples": 1000}
    print("| task | batches | CPU s | ratio | padding | score |\n|---|---|---|---|---|---|")
    for task in tasks:
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in STRATEGIES}
        with tempfile.TemporaryDirectory() as out:
            for seed in SEEDS:
                for name in STRATEGIES:
                    run = peftkit.finetune(
                        model="minilm", method="lora", task=task, seed=seed, source="offline", data_root=data_root,
                        out=f"{out}/{name}", train={**settings, "train_sampling_strategy": name}, **limit,
                    )  # fmt: skip
                    score = next(iter(run.scores.values()))
                    found[name].append((seconds.pop(), run.costs["padding_waste"], score))
        for name, runs in found.items():
            spent, padding, scores = zip(*runs, strict=True)
            ratios = [each[0] / other[0] for each, other in zip(runs, found[STRATEGIES[0]], strict=True)]
            cells = f"{median(spent):.1f} | {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(
                f"| {task} | {name} | {cells} | {median(padding):.1%} | {', '.join(f'{each:.3f}' for each in scores)} |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or ["sst2", "rte"])
