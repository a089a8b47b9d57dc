"""The share of a run that its lock, hashes and flushes to the disk take; a figure of docs/results/reliability.md.

python tests/benchmarks/safety_cost.py GLUE        # GLUE: its parquet folders; LoRA on 640 examples of SST-2, one epoch

The run has a checkpoint at its end, which runs within a minute otherwise lack. Each span is measured inside of the run,
the whole from the start of the process.
"""

from __future__ import annotations

import sys
import tempfile
import time

STARTED = time.perf_counter()
SPANS = {  # functions by their modules
    "peftkit.results.locks": ("_wait", "_sign"),
    "peftkit.paths": ("sync",),
    "peftkit.config.shipped_files": ("shipped_files", "damaged_file"),
    "peftkit.training.checkpoints": ("place", "newest_whole"),
}


def main(glue: str) -> None:
    from importlib import import_module

    from peftkit.cli import main as run

    import_module("peftkit.jobs.finetune")  # with all that a run needs
    spent: dict[str, list[float]] = {}
    depth = 0

    def measured(name: str, function):  # type: ignore[no-untyped-def]
        def call(*arguments, **settings):  # type: ignore[no-untyped-def]
            nonlocal depth
            depth += 1
            started = time.perf_counter()
            try:
                return function(*arguments, **settings)
            finally:
                depth -= 1
                if not depth:  # a span inside of another is part of it
                    spent.setdefault(name, []).append(time.perf_counter() - started)

        return call

    functions = [getattr(import_module(module), name) for module, names in SPANS.items() for name in names]
    for function in functions:
        for module in [each for name, each in sys.modules.items() if name.startswith("peftkit")]:
            if vars(module).get(function.__name__) is function:
                setattr(module, function.__name__, measured(function.__name__.lstrip("_"), function))
    with tempfile.TemporaryDirectory() as out:
        try:
            run([
                "task=sst2", "model=minilm", "method=lora", "source=offline", f"data_root={glue}", f"out={out}",
                "task.max_train_samples=640", "train.num_train_epochs=1", "train.per_device_train_batch_size=32",
                "train.save_strategy=epoch",
            ])  # fmt: skip
        except SystemExit as ended:
            assert not ended.code
    whole, total = time.perf_counter() - STARTED, sum(map(sum, spent.values()))
    for name, seconds in spent.items():
        print(f"{name}: {len(seconds)} calls, {sum(seconds):.3f} s")
    print(f"all: {total:.3f} s of {whole:.1f} s, {total / whole:.2%}")


if __name__ == "__main__":
    main(sys.argv[1])
