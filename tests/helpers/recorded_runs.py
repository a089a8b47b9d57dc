"""Run folders with a result.json of given content, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_run(
    root: Path, name: str, method: str = "lora", task: str = "rte", seed: int = 0, value: float = 0.5, rate: float = 1,
    metrics: dict[str, bool] | None = None, suite: str = "glue", model: str = "bert", model_for: str | None = None,
    data: str = "nyu-mll/glue", data_for: str | None = None, device: str = "cpu", seconds: float = 2.0,
    rows: dict[str, int] | None = None, status: str = "finished", reason: str | None = None, revision: str = "1",
    train: dict[str, Any] | None = None, limit: int | None = None,
) -> None:  # fmt: skip
    """Write a result.json as a run leaves it; one that failed has neither scores nor costs nor counted rows."""
    is_done = status == "finished"
    scores = {m: {"value": value, "higher_is_better": up} for m, up in (metrics or {"accuracy": True}).items()}
    costs = {
        "trainable_params": 10,
        "head_params": 2,
        "total_params": 100,
        "adapter_bytes": 40,
        "train_seconds": seconds,
    }
    sources = {
        "model": {"kind": "hub", "name": model, "revision": revision, "substituted_for": model_for},
        "data": {"kind": "hub", "name": data, "revision": None, "substituted_for": data_for},
    }
    config = {
        "model": {"name": "bert"}, "method": {"name": method, "learning_rate": rate}, "seed": seed,
        "task": {"name": task, "suite": suite, "max_train_samples": limit}, "train": {"learning_rate": rate, **(train or {})},
    }  # fmt: skip
    record = {
        "run": {"config": config},
        "scores": scores if is_done else {},
        "costs": costs if is_done else {},
        "audit": {"sources": sources, **({"rows": rows or {"train": 5}} if is_done else {})},
        "meta": {"seed": seed, "device": device, "started": "2026-01-01", "status": status, "reason": reason},
    }
    (root / name).mkdir(parents=True)
    (root / name / "result.json").write_text(json.dumps(record))
