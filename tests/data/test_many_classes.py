"""A thousand classes are read, weighted, scored and recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import compose_config

from peftkit.config import TaskConfig
from peftkit.config.record_schema import MAX_FIELDS, check_size
from peftkit.data.class_weights import class_weights
from peftkit.data.datasets import load_task_dataset
from peftkit.metrics import score

CLASSES = 1000


def test_a_thousand_classes_are_read_weighted_scored_and_recorded(tmp_path: Path) -> None:
    file, numbers = tmp_path / "data.jsonl", range(3 * CLASSES)
    rows = ({"text": f"text {number}", "label": f"class {number % CLASSES}"} for number in numbers)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    composed = compose_config(
        ["task=classification", "task.dataset=x", "task.text=[text]", "task.class_weights=balanced"]
    )
    task = replace(TaskConfig(**composed.task), dataset=str(file))
    data = load_task_dataset(task, None, "offline")
    names, labels = data.label_names or [], np.array(data.splits["train"]["label"])
    assert len(names) == CLASSES and len({*labels.tolist()}) == CLASSES  # a class of three is never held out whole
    weights = class_weights(task, names, labels) or {}
    assert np.mean([weights[names[label]] for label in labels]) == pytest.approx(1)
    predictions = np.where(np.arange(len(labels)) % 2, labels, (labels + 1) % CLASSES)
    found = score(["accuracy", "macro_f1"], predictions, labels, label_names=names)
    assert found["accuracy"]["value"] == pytest.approx(0.5, abs=0.01) and 0 < found["macro_f1"]["value"] < 1
    splits = ("train", "validation", "chosen on", "calibration_holdout")
    audit = {"label_names": names, "class_weights": weights, "label_counts": dict.fromkeys(splits, weights)}
    check_size(audit)
    assert 6 * CLASSES < MAX_FIELDS and len(json.dumps(audit)) < 300_000
