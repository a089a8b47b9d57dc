"""Detection of CoLA's sentences and of shuffled words by runs on SST-2: MiniLM, LoRA and full, over seeds.

python tests/benchmarks/ood.py GLUE OUT [--examples 2000] [--epochs 3] [--seeds 3]

GLUE is the folder of its parquet files. The tables are those of docs/results/ood.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from statistics import fmean

METHODS, DETECTORS = ("lora", "full"), ("max_softmax", "energy", "mahalanobis")
OTHERS = {"cola": "task=cola", "shuffled": "ood.shuffle=true"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("glue", type=Path)
    parser.add_argument("out", type=Path)
    for name, value in (("examples", 2000), ("epochs", 3), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    data = ["source=offline", f"data_root={given.glue}"]
    train = ["task=sst2", "model=minilm", *data, f"out={given.out}", f"task.max_train_samples={given.examples}"]
    train.append(f"train.num_train_epochs={given.epochs}")
    seeds = ",".join(map(str, range(given.seeds)))
    run("-m", *train, f"method={','.join(METHODS)}", f"seed={seeds}")
    print("| texts | method | detector | AUROC by seed | mean | 95 % interval of seed 0 | FPR at 95 % TPR, mean |")
    print("|---|---|---|---|---|---|---|")
    found = {
        (other, method): [measured(folder, other, override, data) for folder in folders(given.out, method)]
        for (other, override), method in product(OTHERS.items(), METHODS)
    }
    for (other, method), records in found.items():
        for name in DETECTORS:
            each = [record["detectors"][name] for record in records]
            aurocs = " ".join(f"{one['auroc']:.3f}" for one in each)
            fpr = fmean(one["fpr_at_95_tpr"] for one in each)
            print(
                f"| {other} | {method} | `{name}` | {aurocs} | {fmean(one['auroc'] for one in each):.3f} | {fpr:.3f} |"
            )


def folders(out: Path, method: str) -> list[Path]:
    return sorted(file.parent for file in out.glob(f"glue/sst2/minilm/{method}/seed-*/result.json"))


def measured(folder: Path, other: str, override: str, data: list[str]) -> dict:
    file = folder / f"ood-{other}.json"
    if not file.is_file():
        run("job=ood", f"run={folder}", override, *data)
    return json.loads(file.read_text(encoding="utf-8"))


def run(*overrides: str) -> None:
    subprocess.run([sys.executable, "-m", "peftkit", *overrides], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
