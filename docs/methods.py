"""Search a learning rate of equal size for every method, then train the best with three seeds: docs/methods.md.

python docs/methods.py DATA_ROOT        # goes on where it was stopped; docs/methods.json holds what is finished
python docs/methods.py DATA_ROOT page   # only writes the page again
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

HERE = Path(__file__).parent
DONE, PAGE = HERE / "methods.json", HERE / "methods.md"
TASKS, SEEDS, FACTORS = ("mrpc", "stsb"), (0, 1, 2), (0.3, 1, 3, 10)
TRAIN_ROWS, SEARCH_ROWS = 1000, 500
# method: its words, and the rate that the factors multiply
METHODS: dict[str, tuple[list[str], float]] = {
    "full": (["method=full"], 1e-4),
    "gradual": (["method=gradual"], 5e-4),
    "linear_probe": (["method=linear_probe"], 1e-2),
    "bitfit": (["method=bitfit"], 1e-3),
    "adapter (houlsby)": (["method=adapter"], 1e-3),
    "adapter (pfeiffer)": (["method=adapter", "method.config.kind=pfeiffer"], 1e-3),
    "adapter (parallel)": (["method=adapter", "method.config.kind=parallel"], 1e-3),
    "ia3": (["method=ia3"], 1e-2),
    "prompt": (["method=prompt"], 3e-2),
    "p_tuning": (["method=p_tuning"], 1e-3),
    "prefix": (["method=prefix"], 1e-2),
    "lora": (["method=lora"], 1e-3),
    "dora": (["method=dora"], 1e-3),
    "adalora": (["method=adalora"], 3e-3),
    "vera": (["method=vera"], 1e-2),
    "qlora": (["method=qlora"], 5e-4),
    "mam": (["method=mam"], 1e-3),
    "unipelt": (["method=unipelt"], 1e-3),
}
COMMON = ["model=minilm", "source=embedded", "train.num_train_epochs=3", "train.per_device_train_batch_size=16"]
Key = tuple[str, str, str, float, int]  # method, task, split, rate, seed


def main() -> None:
    done = read()
    if sys.argv[2:] != ["page"]:
        with tempfile.TemporaryDirectory() as scratch:
            data = data_of(Path(sys.argv[1]), Path(scratch))
            for method in METHODS:
                for task in TASKS:
                    for rate in rates(method):
                        run(done, data, (method, task, "search", rate, 0))
            for seed in SEEDS:
                for method in METHODS:
                    for task in TASKS:
                        run(done, data, (method, task, "validation", best(done, method, task)[0], seed))
    PAGE.write_text(page(done))


def data_of(root: Path, out: Path) -> Path:
    """Write the first rows of train, shuffled, others of it to choose the rate on, and the validation split."""
    from datasets import load_dataset

    for task in TASKS:
        files = {split: str(root / task / f"{split}.parquet") for split in ("train", "validation")}
        splits = load_dataset("parquet", data_files=files)
        rows = splits["train"].shuffle(seed=0)
        (out / task).mkdir()
        rows.select(range(TRAIN_ROWS)).to_parquet(out / task / "train.parquet")
        rows.select(range(TRAIN_ROWS, TRAIN_ROWS + SEARCH_ROWS)).to_parquet(out / task / "search.parquet")
        splits["validation"].to_parquet(out / task / "validation.parquet")
    return out


def run(done: dict[Key, dict[str, float]], data: Path, key: Key) -> None:
    """Train one cell, where it is not there yet, and keep its scores."""
    import peftkit

    method, task, split, rate, seed = key
    if key in done:
        return
    (folder,) = peftkit.finetune(
        *COMMON, *METHODS[method][0], f"task={task}", f"data_root={data}", f"task.splits.validation=[{split}]",
        f"train.learning_rate={rate}", f"seed={seed}", "train.save_strategy=no", f"out={HERE.parent}/outputs/methods",
    )  # fmt: skip
    done[key] = scores_of(json.loads((folder / "result.json").read_text()))
    rows = [{"key": list(each), "scores": scores} for each, scores in sorted(done.items())]
    part = DONE.with_suffix(".part")
    part.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    part.replace(DONE)


def scores_of(result: dict[str, Any]) -> dict[str, float]:
    return {name: round(entry["value"], 4) for name, entry in result["scores"].items()}


def read() -> dict[Key, dict[str, float]]:
    rows = json.loads(DONE.read_text()) if DONE.is_file() else []
    return {tuple(row["key"]): row["scores"] for row in rows}


def rates(method: str) -> list[float]:
    return [float(f"{METHODS[method][1] * factor:.3g}") for factor in FACTORS]


def best(done: dict[Key, dict[str, float]], method: str, task: str) -> tuple[float, float]:
    """Return the rate that was best on the rows to choose on, and its score there: the mean of the task's metrics."""
    found = {rate: done.get((method, task, "search", rate, 0)) for rate in rates(method)}
    return max(((rate, mean(each.values())) for rate, each in found.items() if each), key=lambda pair: pair[1])


def page(done: dict[Key, dict[str, float]]) -> str:
    lines = [HEADER]
    for task, title in (("mrpc", "MRPC: mean of accuracy and F1"), ("stsb", "STS-B: mean of Pearson and Spearman")):
        lines += [
            f"## {title}",
            "",
            f"| method |{' rate |' * len(FACTORS)} best rate | validation, {len(SEEDS)} seeds |",
        ]
        lines.append("|---" * (len(FACTORS) + 3) + "|")
        for method in METHODS:
            cells = [(rate, done.get((method, task, "search", rate, 0))) for rate in rates(method)]
            tried = [f"{rate:g}: {mean(each.values()):.3f}" if each else f"{rate:g}: –" for rate, each in cells]
            chosen, spread = "–", "–"
            if all(each for _, each in cells):
                rate = best(done, method, task)[0]
                chosen = f"{rate:g}"
                seeds = [done.get((method, task, "validation", rate, seed)) for seed in SEEDS]
                values = [mean(each.values()) for each in seeds if each]
                if len(values) == len(SEEDS):
                    spread = f"{mean(values):.3f} ± {stdev(values):.3f}"
                elif values:
                    spread = f"{', '.join(f'{value:.3f}' for value in values)} ({len(values)} of {len(SEEDS)})"
            lines.append(f"| {method} | {' | '.join(tried)} | {chosen} | {spread} |")
        lines.append("")
    return "\n".join(lines)


HEADER = f"""# Every method with a rate of its own

MiniLM on {TRAIN_ROWS:,} training rows of MRPC and of STS-B, three epochs, batches of 16, bf16. Each method gets the
same {len(FACTORS)} tries: learning rates from 0.3 to 10 times the one it was first given, each scored on
{SEARCH_ROWS} other rows of train (seed 0). Only the best of them is trained with seeds {", ".join(map(str, SEEDS))} and
scored on the validation split, which chose nothing (± is the sample standard deviation). A dash is a cell that has not
been run yet; no best rate is told before all tries are there. Two cores, AMD EPYC.

```bash
python docs/methods.py DATA_ROOT    # DATA_ROOT/mrpc and DATA_ROOT/stsb hold train.parquet and validation.parquet
```
"""

if __name__ == "__main__":
    main()
