"""Interrupt training before a step, like Ctrl-C."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from peftkit import training
from peftkit.training import callbacks


class BreakOff(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@contextmanager
def broken_off(step: int) -> Iterator[None]:
    """Break every training off that would take this step; one that takes none of it fails the test."""
    fit = training.fit

    def broken_fit(trainer: Any, checkpoints: Path) -> Any:
        trainer.add_callback(BreakOff(step))
        return fit(trainer, checkpoints)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "fit", broken_fit)
        patch.setattr(callbacks, "CHECKPOINT_SECONDS", 0.0)  # each epoch has its checkpoint
        yield


def leave_unfinished(folder: Path) -> None:
    """Leave the folder of a finished run as a kill before its weights were saved does."""
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    record["meta"] |= {"status": "running", "finished": None}
    (folder / "result.json").write_text(json.dumps({**record, "files": {}}), encoding="utf-8")
    for name in ("model", "adapter"):
        shutil.rmtree(folder / name, ignore_errors=True)
