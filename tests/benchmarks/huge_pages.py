"""CPU seconds and page faults of training with torch's CPU memory in huge pages, and without.

    python tests/benchmarks/huge_pages.py DATA_ROOT [method ...]     # full and lora; ten minutes

MiniLM, 1,000 examples of SST-2, two epochs; five pairs of processes that alternate, with the same seed. The ratio is the
median over pairs, with the lowest and the highest.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

PAIRS = 5


def main(data_root: str, methods: list[str]) -> None:
    print("| method | CPU seconds, ratio | page faults a step, without | with |\n|---|---|---|---|")
    for method in methods:
        pairs = [[_measured(data_root, method, pages) for pages in ("0", "1")] for _ in range(PAIRS)]
        ratios = [after["seconds"] / before["seconds"] for before, after in pairs]
        faults = [median(each[side]["faults"] for each in pairs) for side in (0, 1)]
        print(
            f"| {method} | {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {faults[0]:.0f} | "
            f"{faults[1]:.0f} |",
            flush=True,
        )


def _measured(data_root: str, method: str, pages: str) -> dict[str, float]:
    command = [sys.executable, __file__, "train", data_root, method]
    environment = os.environ | {"THP_MEM_ALLOC_ENABLE": pages}
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def train(data_root: str, method: str) -> None:
    """Train once and print what the steps used."""
    import peftkit
    from peftkit import training

    fit, used = training.fit, {}

    def measured(trainer: Any, checkpoints: Path) -> Any:
        before = resource.getrusage(resource.RUSAGE_SELF)
        found = fit(trainer, checkpoints)
        after = resource.getrusage(resource.RUSAGE_SELF)
        used["seconds"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        used["faults"] = (after.ru_minflt - before.ru_minflt) / found.steps
        return found

    training.fit = measured
    with tempfile.TemporaryDirectory() as out:
        peftkit.finetune(
            model="minilm", method=method, task="sst2", source="offline", data_root=data_root, out=out,
            train={"num_train_epochs": 2, "disable_tqdm": True},
            **{"task.max_train_samples": 1000, "task.max_eval_samples": 32},
        )  # fmt: skip
    print(json.dumps(used))


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(*sys.argv[2:])
    else:
        main(sys.argv[1], sys.argv[2:] or ["full", "lora"])
