"""Finished run folders with given predictions, as a run leaves them, without training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helpers import commands
from peftkit.cli.compose import build_run
from peftkit.results import run_folder

LOG = [{"step": 10 * n, "loss": 1 / (n + 1), "epoch": n / 3} for n in range(1, 7)]


def write_finished_run(
    folder: Path, columns: Mapping[str, list[Any]], *overrides: str, names: list[str] | None = None,
    scores: Mapping[str, float] | None = None, **audit: Any,
) -> Path:  # fmt: skip
    """Write result.json, predictions.parquet and log.jsonl; `columns` lack only id and split."""
    chosen = ["model=minilm", "method=lora", *overrides]
    config = build_run(commands.compose_config(chosen), None, chosen)
    count = len(columns["prediction"])
    source = {"kind": "folder", "name": "tickets", "revision": "1", "substituted_for": None}
    record = {
        "run": {"recipe": None, "config": config.to_dict(), "overrides": list(overrides), "setup": {"precision": "fp32"}},
        "scores": {name: {"value": value, "higher_is_better": True} for name, value in (scores or {}).items()},
        "costs": {"trainable_params": 332_546, "total_params": 22_897_922, "train_seconds": 12.5, "steps": 20, "padding_waste": 0.2},
        "audit": {
            "sources": {"model": {**source, "name": "minilm"}, "data": source}, "label_names": names, "fresh": [],
            "rows": {"train": 300, "validation": count}, "truncated": {"train": 0, "validation": 0},
            "dropped": {"train": 0, "validation": 0}, "unknown_tokens": {"train": 0.0, "validation": 0.0},
            "label_counts": {}, **audit,
        },
        "gates": {"rows": 16, "reload_difference": 0.0},
        "meta": {**run_folder.meta(0, "cpu", "fp32"), "status": "finished"},
    }  # fmt: skip
    folder.mkdir(parents=True)
    run_folder.write_result(folder, record)
    whole = {"id": list(range(count)), "split": ["validation"] * count, **columns}
    run_folder.write_predictions(folder / "predictions.parquet", whole)
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in LOG), encoding="utf-8")
    return folder


def classified(
    labels: list[int], predictions: list[int], names: list[str], confidence: float = 0.8
) -> dict[str, list[Any]]:
    """Return the columns of a classification, where every prediction has one confidence."""
    rest = (1 - confidence) / max(1, len(names) - 1)
    probabilities = [[confidence if n == p else rest for n in range(len(names))] for p in predictions]
    return {
        "label": labels, "prediction": predictions, "scores": np.log(probabilities).tolist(),
        "label_name": [names[label] for label in labels], "prediction_name": [names[each] for each in predictions],
        "probabilities": probabilities, "text": [f"ticket {n}" for n in range(len(labels))],
    }  # fmt: skip
