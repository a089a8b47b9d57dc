"""Temperature scaling on real tasks: calibration error on validation before and after, and whether an answer changed.

    python tests/benchmarks/calibration.py DATA_ROOT OUT [--examples 600] [--epochs 6]

Trains MiniLM fully on GLUE-shaped folders (DATA_ROOT/rte and so on), with a fifth of the training examples held out to fit
the temperature on, and prints a table in Markdown.
"""

from __future__ import annotations

import argparse

import numpy as np

import peftkit

TASKS = ("sst2", "mrpc", "cola", "rte")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_root")
    parser.add_argument("out")
    parser.add_argument("--examples", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=6)
    given = parser.parse_args()
    print("| task | trained on | held out | validation | accuracy | temperature | ECE | NLL | answers changed |")
    print("|---|---|---|---|---|---|---|---|---|")
    for task in TASKS:
        run = peftkit.finetune(
            model="minilm",
            method="full",
            task=task,
            source="offline",
            data_root=given.data_root,
            out=given.out,
            train={"num_train_epochs": given.epochs, "learning_rate": 1e-4, "disable_tqdm": True},
            calibration={"holdout": 0.2},
            **{"task.max_train_samples": given.examples, "task.metrics": ["accuracy"]},
        )
        found, rows = run.record["calibration"], run.record["audit"]["rows"]
        on, table = found["validation"]["validation"], run.predictions()
        scores = np.stack(table["scores"])
        changed = int(((scores / found["temperature"]).argmax(1) != scores.argmax(1)).sum())
        print(
            f"| {task} | {rows['train']} | {found['examples']} | {on['examples']} | {100 * run.scores['accuracy']:.1f} "
            f"| {found['temperature']:.2f} | {_change(on['ece'])} | {_change(on['nll'])} | {changed} |",
            flush=True,
        )


def _change(values: dict[str, float]) -> str:
    return f"{values['before']:.3f} → {values['after']:.3f}"


if __name__ == "__main__":
    main()
