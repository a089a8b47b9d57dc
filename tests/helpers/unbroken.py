"""Tiny commands of many kinds, what they end with, and whether one that was killed ends with the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
    "torchrun": ("method=lora",),
}
TWO_PROCESSES = ("torchrun",)  # kinds
TIMES = ("seconds", "runtime", "per_second", "_bytes", "latency")  # in names of what differs between repetitions
LEFT = ("checkpoints", "trials")  # in a run's folder; of no run that has finished


@dataclass(frozen=True)
class Unbroken:
    """A command that was not interrupted: what kills at each of its operations leave, and what it ended with."""

    server: ForkServer
    kind: str
    checkpoint: Path
    folder: Path  # of `out`
    images: list[Image]
    expected: dict[str, Any]

    @classmethod
    def record(cls, server: ForkServer, kind: str, checkpoint: Path, folder: Path) -> Unbroken:
        """Run a command of a kind to its end, with its output in a new folder."""
        found = cls(server, kind, checkpoint, folder, [], {})
        found.out.mkdir(parents=True)
        arguments = [str(folder / "images"), str(found.out), *found.command()]
        module = "two_processes" if kind in TWO_PROCESSES else "crash_images"
        ended = server.run(arguments, folder, limit=600, entry=f"helpers.{module}:record")
        assert ended.code == 0, ended.output
        found.images.extend(read_images(folder / "images"))
        found.expected.update(outcome(found.out))
        return found

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def command(self) -> list[str]:
        """Return the command of the kind on a tiny BERT; its own overrides replace those of the base."""
        own = KINDS[self.kind]
        named = {each.partition("=")[0] for each in own}
        base = [each for each in BASE if each.partition("=")[0] not in named]
        flags = own[: own[0] == "-m"]
        checkpoint = ("model=bert", f"model.checkpoint={self.checkpoint}")
        return [*flags, *checkpoint, *base, *own[len(flags) :], f"out={self.out}"]

    def run(self, limit: float = 600) -> Finished:
        """Run the command once more; it is killed after `limit` seconds."""
        entry = "helpers.two_processes:main" if self.kind in TWO_PROCESSES else "peftkit.cli:main"
        return self.server.run(self.command(), self.folder, limit=limit, entry=entry)

    def healed(self) -> tuple[Finished, list[str]]:
        """Repeat the command; return how it ended, and where its runs differ from those of the unbroken one."""
        ended = self.run()
        wrong = [f"exit code {ended.code}: {ended.stderr[-500:]}"] if ended.code else []
        wrong += ["a traceback"] if "Traceback" in ended.output else []
        return ended, wrong or differences(outcome(self.out), self.expected)


def learned(folder: Path) -> tuple[Any, ...]:
    """Return what a finished run learned: scores, counts of its data, predictions and weights."""
    result = json.loads((folder / "result.json").read_text())
    assert result["meta"]["status"] == "finished" and result["gates"]["reload_difference"] == 0
    weights = [file.read_bytes() for file in sorted(folder.rglob("*.safetensors"))]
    assert weights
    return result["scores"], result["audit"], pq.read_table(folder / "predictions.parquet").to_pydict(), weights


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
