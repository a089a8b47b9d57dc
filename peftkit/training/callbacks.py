"""Callbacks of the Trainer: AdaLoRA's ranks, the epoch of a dataset, schedules, the log file and the progress bar."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import ProgressCallback, TrainerCallback

IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of weights in AdaLoRA (Zhang et al. 2023, section 3.2)


class Schedule(Protocol):
    """Changes to the model while it trains. Each method returns entries for the log."""

    rates: dict[str, float]  # each weight's factor of the learning rate, by the weight's name

    def begin(self, step: int, steps: int, epoch: int) -> list[dict[str, Any]]:
        """Set the model to its state after `step` of `steps` steps, of which an epoch has `epoch`."""

    def after(self, step: int) -> list[dict[str, Any]]:
        """Change the model after a step."""


class RankAllocationCallback(TrainerCallback):
    """Reallocate AdaLoRA's ranks after each step, while the step's gradients still exist.

    PEFT saves only the ranks in its config's `rank_pattern`, but a pruned rank can come back. So `rank_pattern` is None
    until training ends, checkpoints have all ranks, and `ranks.pt` beside them has the pattern and the importances.
    """

    def __init__(self, tuner: Any) -> None:
        self.allocator, self.allocate = tuner.rankallocator, tuner.update_and_allocate
        self.config = tuner.peft_config[tuner.trainable_adapter_name]
        self.pattern = self.config.rank_pattern

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step:
            self._restore(Path(args.output_dir) / f"checkpoint-{state.global_step}", args.device)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.config.rank_pattern = self.pattern
        self.allocate(state.global_step)
        self.pattern, self.config.rank_pattern = self.config.rank_pattern, None

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            importance = {name: getattr(self.allocator, name) for name in IMPORTANCE}
            torch.save({"rank_pattern": self.pattern, **importance}, folder / "ranks.pt")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._restore(Path(state.best_model_checkpoint), args.device)
        self.config.rank_pattern = self.pattern

    def _restore(self, checkpoint: Path, device: torch.device) -> None:
        saved = torch.load(checkpoint / "ranks.pt", map_location=device, weights_only=True)
        self.pattern = saved.pop("rank_pattern")
        for name, values in saved.items():
            setattr(self.allocator, name, values)


class SetEpochCallback(TrainerCallback):
    """Set the epoch of a dataset that differs from epoch to epoch; a resumed run starts in the middle of one."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.dataset.epoch = int((state.epoch or 0) + 1e-6)


class ScheduleCallback(TrainerCallback):
    """Advance a schedule with training, and log its entries."""

    def __init__(self, schedule: Schedule, log: Callable[[dict[str, Any]], None]) -> None:
        self.schedule, self.log = schedule, log

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        epoch = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
        for entry in self.schedule.begin(state.global_step, state.max_steps, epoch):
            self.log(entry)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # before the step's checkpoint is written: a run resumed from it keeps what is logged here
        for entry in self.schedule.after(state.global_step):
            self.log(entry)


class JsonLogCallback(TrainerCallback):
    """Append each log entry as a line of JSON; a resumed run deletes the lines after its checkpoint."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero and self.file.is_file():
            lines = self.file.read_text(encoding="utf-8").splitlines() if state.global_step else []
            kept = [f"{line}\n" for line in lines if _step(line) <= state.global_step]
            self.file.write_text("".join(kept), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class ProgressBarCallback(ProgressCallback):
    """A progress bar that shows the loss; log entries go to the log file alone."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


def _step(line: str) -> float:
    """Return the step of a line of the log, infinity of a line that an interruption truncated."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
