"""Tiny commands of many kinds, what they end with, and whether one that was killed ends with the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from helpers.crash_images import Image, read_images
from helpers.fork_server import Finished, ForkServer

BASE = (
    "task=mrpc", "source=offline", "task.max_train_samples=24", "task.max_eval_samples=24", "train.num_train_epochs=2",
    "train.per_device_train_batch_size=8", "train.bf16=false", "train.disable_tqdm=true", "train.save_strategy=steps",
    "train.save_steps=2", "train.logging_steps=1",
)  # fmt: skip
EPOCHS = ("train.save_strategy=epoch",)
KINDS: dict[str, tuple[str, ...]] = {
    "lora": ("method=lora",),
    "early_stopping": ("method=lora", *EPOCHS, "train.num_train_epochs=3", "early_stopping.patience=1"),
    "full": ("method=full",),
    "adalora": ("method=adalora",),
    "gradual": ("method=gradual",),
    "search": ("method=lora", "search.lr_multipliers=[1,3]", "search.samples=8", *EPOCHS),
    "sweep": ("-m", "method=lora,ia3", "seed=0,1", *EPOCHS),
    "prefix": ("method=prefix",),
    "qlora": ("method=qlora",),
}
TIMES = ("seconds", "runtime", "per_second", "_bytes", "latency")  # in names of what differs between repetitions
LEFT = ("checkpoints", "trials")  # in a run's folder; of no run that has finished


def command_of(kind: str, checkpoint: Path, out: Path) -> list[str]:
    """Return the command of a kind on a tiny BERT; later overrides replace those of the base."""
    own = KINDS[kind]
    named = {each.partition("=")[0] for each in own}
    base = [each for each in BASE if each.partition("=")[0] not in named]
    return [
        *own[: own[0] == "-m"],
        "model=bert",
        f"model.checkpoint={checkpoint}",
        *base,
        *own[own[0] == "-m" :],
        f"out={out}",
    ]


def learned(folder: Path) -> tuple[Any, ...]:
    """Return what a finished run learned: scores, predictions and weights."""
    result = json.loads((folder / "result.json").read_text())
    assert result["meta"]["status"] == "finished" and result["gates"]["reload_difference"] == 0
    weights = [file.read_bytes() for file in sorted(folder.rglob("*.safetensors"))]
    return result["scores"], pq.read_table(folder / "predictions.parquet").to_pydict(), weights


def outcome(out: Path) -> dict[str, Any]:
    """Return what all runs below a folder end with: results without times, weights, predictions and logs."""
    found: dict[str, Any] = {}
    for file in sorted(out.rglob("result.json")):
        folder, result = file.parent, json.loads(file.read_text(encoding="utf-8"))
        name = str(folder.relative_to(out))
        kept = ("run", "scores", "audit", "costs", "search", "gates")
        found[name] = {
            "status": result["meta"]["status"],
            **{part: without_times(result.get(part)) for part in kept},
            "weights": {
                str(each.relative_to(folder)): each.read_bytes() for each in sorted(folder.rglob("*.safetensors"))
            },
            "predictions": pq.read_table(folder / "predictions.parquet").to_pydict(),
            "log": [without_times(json.loads(line)) for line in (folder / "log.jsonl").read_text().splitlines()],
            "left": sorted(each.name for each in folder.iterdir() if each.name in LEFT or each.name.startswith(".")),
        }
    return found


def without_times(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: without_times(each) for name, each in values.items() if not any(part in name for part in TIMES)}
    return [without_times(each) for each in values] if isinstance(values, list) else values


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """Return where two outcomes differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = sorted(found.keys() | expected.keys())
        return [each for name in names for each in differences(found.get(name), expected.get(name), f"{where}/{name}")]
    return [] if found == expected else [where]


def record(server: ForkServer, kind: str, checkpoint: Path, folder: Path) -> tuple[list[Image], dict[str, Any]]:
    """Run a command without an interruption; return what kills at each operation leave, and what it ended with."""
    out = folder / "out"
    arguments = [str(folder / "images"), str(out), *command_of(kind, checkpoint, out)]
    out.mkdir(parents=True)
    ended = server.run(arguments, folder, limit=600, entry="helpers.crash_images:record")
    assert ended.code == 0, ended.output
    return read_images(folder / "images"), outcome(out)


def healed(
    server: ForkServer, kind: str, checkpoint: Path, folder: Path, expected: dict[str, Any]
) -> tuple[Finished, list[str]]:
    """Repeat a killed command; return how it ended, and where its runs differ from those of an unbroken command."""
    out = folder / "out"
    ended = server.run(command_of(kind, checkpoint, out), folder, limit=600)
    wrong = [f"exit code {ended.code}: {ended.stderr[-500:]}"] if ended.code else []
    wrong += ["a traceback"] if "Traceback" in ended.output else []
    return ended, wrong or differences(outcome(out), expected)
