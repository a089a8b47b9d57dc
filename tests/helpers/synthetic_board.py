"""Synthetic run folders, as realistic as a board needs: scores, predictions, costs, logs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftkit.metrics import METRICS

# method: true skill, trained parameters, seconds, learning rate
METHODS = {
    "full": (0.885, 22_713_986, 96, 1e-4), "lora": (0.880, 338_000, 71, 1e-3), "dora": (0.881, 342_000, 118, 1e-3),
    "rslora": (0.874, 338_000, 72, 1e-3), "adapter": (0.876, 610_000, 63, 1e-3), "ia3": (0.845, 14_600, 58, 1e-2),
    "bitfit": (0.850, 29_200, 55, 3e-3), "prefix": (0.832, 147_000, 60, 1e-2), "prompt": (0.74, 8_450, 66, 3e-2),
    "p_tuning": (0.79, 225_000, 69, 1e-2), "mam": (0.868, 702_000, 74, 1e-3), "linear_probe": (0.70, 770, 21, 1e-1),
}  # fmt: skip
# task: metrics, validation examples, weight of the skill
TASKS = {
    "cola": (["matthews_correlation"], 1043, 0.85), "sst2": (["accuracy"], 872, 1.04),
    "mrpc": (["accuracy", "f1"], 408, 0.97), "stsb": (["pearson", "spearman"], 1500, 0.98),
    "rte": (["accuracy"], 277, 0.0),
}  # fmt: skip
HEAD, TOTAL = 770, 22_714_756
MACHINES = ("cpu: AMD EPYC, 2 cores", "cuda: NVIDIA H200")
HOSTILE = "</script><img src=x onerror=alert(1)>\u2028$x_{"


def make_board(
    root: Path, seeds: int = 3, rates: int = 1, predictions: bool = True, extras: bool = True,
    tasks: Sequence[str] = tuple(TASKS), methods: Sequence[str] = tuple(METHODS),
) -> int:  # fmt: skip
    """Write every method x task x rate x seed below `root` and return how many; `extras` adds what goes wrong.

    Extras: a failed run, one without scores, a run of another machine, a board of substitutes and a hostile name.

    Args:
        tasks: those of TASKS, or of that shape with another name: sst2-7 has the metric and the examples of sst2.
    """
    random = np.random.default_rng(0)
    count = 0
    for number, task in enumerate(tasks):
        _, examples, _ = shape_of(task)
        labels = random.integers(0, 26, examples) / 5 if task.startswith("stsb") else random.integers(0, 2, examples)
        noise = {"examples": np.random.default_rng(number).normal(size=examples), "labels": labels}
        for method in methods:
            for step in range(rates):
                for seed in range(seeds):
                    make_run(root, method, task, seed, random, noise, predictions, factor=1.1**step)
                    count += 1
    if extras:
        noise = {"examples": random.normal(size=872), "labels": random.integers(0, 2, 872)}
        make_run(root, "lora", "sst2", 7, random, noise, device=MACHINES[1])
        make_run(root, "ia3", "sst2", 8, random, noise, failed="CUDA out of memory: tried to allocate 2.00 GiB")
        make_run(root, HOSTILE, "sst2", 0, random, noise)
        make_run(root, "vera", "sst2", 0, random, noise, failed="vera needs equal shapes; try method=lora")
        for method in ("full", "lora", "ia3"):
            for seed in range(seeds):
                make_run(root, method, "sst2", seed, random, noise, is_offline=True)
        count += 4 + 3 * seeds
    return count


def shape_of(task: str) -> tuple[list[str], int, float]:
    """Return the metrics, validation examples and weight of the skill of a task such as sst2 or sst2-7."""
    return TASKS[task.partition("-")[0]]


def make_run(
    root: Path, method: str, task: str, seed: int, random: np.random.Generator, noise: dict[str, np.ndarray],
    predictions: bool = True, factor: float = 1.0, device: str = MACHINES[0], failed: str | None = None,
    is_offline: bool = False,
) -> Path:  # fmt: skip
    """Write one run folder, scored as its predictions are; `noise`, how hard each example is, is shared by all methods."""
    skill, trained, seconds, rate = METHODS.get(method, METHODS["lora"])
    metrics, examples, weight = shape_of(task)
    rate = float(f"{rate * factor:.3g}")
    chance = 0.53 if not weight else min(skill * weight - 0.01 * abs(math.log(factor)), 0.97)
    hardness = 0.8 * noise["examples"] + 0.6 * random.normal(size=examples)
    luck, labels = 0.02 * random.normal(), noise["labels"]
    if task.startswith("stsb"):  # with the noise that makes the correlation equal to the skill
        answers = labels + np.std(labels) * math.sqrt(chance**-2 - 1) * (1 + luck) * hardness
    else:
        right = hardness < float(np.quantile(noise["examples"], chance)) + luck
        answers = np.where(right, labels, 1 - labels)
    folder = (
        root / ("miniglue" if is_offline else "glue") / task / "minilm" / _safe(method) / f"seed-{seed}-{factor:.4f}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    record = _record(method, task, seed, rate, device, failed, is_offline)
    if failed is None:
        record["scores"] = {
            name: {
                "value": METRICS[name].score(labels, answers),
                "higher_is_better": True,
            }
            for name in metrics
        }
        speed = (1 if device == MACHINES[0] else 20) * (1 + 0.03 * random.normal())
        record["costs"] = {
            "trainable_params": trained + HEAD, "head_params": HEAD, "total_params": TOTAL + trained,
            "adapter_bytes": 4 * (trained + HEAD), "train_seconds": seconds / speed,
            "train_peak_bytes": int(1.1e9 + 18 * trained), "eval_seconds": 4.7 / speed, "eval_peak_bytes": 900_000_000,
            "tokens": 102_042, "padding_waste": 0.085, "tokens_per_second": 102_042 * speed / seconds,
            "latency_ms": 3.1 / speed, "merged_latency_ms": 2.9 / speed, "steps": 141, "epochs": 3.0,
        }  # fmt: skip
        _write_log(folder / "log.jsonl", 1 - skill, random)
        if predictions:
            _write_predictions(folder / "predictions.parquet", labels, answers, random)
    (folder / "result.json").write_text(json.dumps(record, indent=1))
    return folder


def _record(
    method: str, task: str, seed: int, rate: float, device: str, failed: str | None, is_offline: bool
) -> dict[str, Any]:
    metrics, examples, _ = shape_of(task)
    data = {"kind": "folder", "name": f"data/glue/{task}", "revision": "bcdcba79d07b", "substituted_for": None}
    if is_offline:
        data = {"kind": "offline", "name": "miniglue", "revision": "1", "substituted_for": "nyu-mll/glue"}
    model = {
        "kind": "offline", "name": "minilm", "revision": "0.1.0", "substituted_for": None, "pooling": "mean",
    }  # fmt: skip
    overrides = ["model=minilm", f"method={method}", f"task={task}", f"train.learning_rate={rate:.6g}", f"seed={seed}"]
    audit: dict[str, Any] = {"sources": {"model": model, "data": data}}
    if failed is None:
        audit |= {
            "rows": {"train": 1500, "validation": examples}, "truncated": {"train": 3, "validation": 1},
            "dropped": {"train": 0, "validation": 0}, "label_names": ["no", "yes"],
            "label_counts": {"train": {"no": 700, "yes": 800}},
        }  # fmt: skip
    trials = [
        {"learning_rate": rate * f, "score": 0.8 - abs(math.log(f)) / 20, "status": "finished"} for f in (0.3, 1, 3)
    ]
    return {
        "run": {
            "recipe": "glue_leaderboard",
            "config": {
                "model": {"name": "minilm", "checkpoint": "sentence-transformers/all-MiniLM-L6-v2"},
                "method": {"name": method, "config": {"r": 8}, "learning_rate": rate},
                "task": {"name": task, "suite": "glue", "metrics": metrics, "max_train_samples": 1500},
                "seed": seed,
                "train": {"learning_rate": rate, "num_train_epochs": 3},
            },
            "overrides": ["recipe=glue_leaderboard", *overrides],
            "setup": {"processes": 1, "precision": "bf16"},
        },
        "scores": {},
        "costs": {},
        "audit": audit,
        "trials": 3,
        "search": {"trials": trials, "chosen": rate, "rows": 500, "seconds": 61.0},
        "forgetting": None,
        "meta": {
            "seed": seed, "git": "273d772", "versions": {"python": "3.11.7", "peftkit": "0.1.0", "torch": "2.13.0"},
            "device": device, "precision": "bf16", "started": f"2026-11-21T12:{seed:02}:05+00:00",
            "status": "failed" if failed else "finished", "reason": failed,
        },
    }  # fmt: skip


def _write_log(file: Path, floor: float, random: np.random.Generator) -> None:
    steps = np.arange(10, 150, 10)
    losses = floor + 0.6 * np.exp(-steps / 40) + 0.02 * random.normal(size=len(steps))
    lines = [json.dumps({"step": int(s), "loss": float(x)}) for s, x in zip(steps, losses, strict=True)]
    file.write_text("\n".join([*lines, json.dumps({"step": 150, "train_runtime": 38.2})]) + "\n")


def _write_predictions(file: Path, labels: np.ndarray, answers: np.ndarray, random: np.random.Generator) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    scores = random.random((len(labels), 2)).tolist()
    columns = {"id": list(range(len(labels))), "split": ["validation"] * len(labels)}
    pq.write_table(pa.table({**columns, "label": labels, "prediction": answers, "scores": scores}), file)


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
