"""CPU seconds of the first and of the later epochs with and without train.torch_compile, and the steps until it pays.

    python tests/benchmarks/compilation.py DATA_ROOT [method ...]

MiniLM, 512 examples of SST-2, three epochs of 16 steps, with an empty cache of compiled kernels.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
STEPS, SIZE = 16, 32


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the compilers that it started."""
    used = (resource.getrusage(each) for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def main(data_root: str, methods: list[str]) -> None:
    from transformers import TrainerCallback

    import peftkit
    from peftkit import training

    times: list[float] = []
    fit = training.fit

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            times[:] = [cpu_seconds()]

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            times.append(cpu_seconds())

    def timed(trainer: Any, checkpoints: Path) -> Any:
        trainer.add_callback(Clock())
        return fit(trainer, checkpoints)

    training.fit = timed
    sizes: dict[str, Any] = {"task.max_train_samples": STEPS * SIZE, "task.max_eval_samples": 32}
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": SIZE, "disable_tqdm": True}
    print("| method | compiled | first epoch | second | third |\n|---|---|---|---|---|")
    for method in methods:
        later: dict[bool, float] = {}
        first = 0.0
        for compiled in (False, True):
            with tempfile.TemporaryDirectory() as out:
                peftkit.finetune(
                    model="minilm", method=method, task="sst2", source="offline", data_root=data_root, out=out,
                    train={**settings, "torch_compile": compiled}, **sizes,
                )  # fmt: skip
            epochs = [end - start for start, end in pairwise(times)]
            first, later[compiled] = epochs[0], epochs[2]
            print(f"| {method} | {compiled} | {' | '.join(f'{each:.1f}' for each in epochs)} |", flush=True)
        saved = (later[False] - later[True]) / STEPS
        steps = (first - later[True]) / saved if saved > 0 else float("inf")
        print(f"{method}: {later[True] / later[False]:.2f} of the seconds, pays after {steps:.0f} steps", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or ["lora", "full"])
