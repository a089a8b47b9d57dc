"""Turn the events of a training into moved ranks, a followed schedule, a log and a progress bar."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import ProgressCallback, TrainerCallback

IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of weights, to AdaLoRA (Zhang et al. 2023, section 3.2)


class Schedule(Protocol):
    """What changes the model while it trains; each answer holds entries for the log."""

    rates: dict[str, float]  # a share of the learning rate for each weight by its name

    def begin(self, step: int, steps: int, epoch: int) -> list[dict[str, Any]]:
        """Take the model to where it was after this step of so many, `epoch` of them an epoch."""

    def after(self, step: int) -> list[dict[str, Any]]:
        """Take the model from one step to the next."""


class AllocateRanks(TrainerCallback):
    """Let AdaLoRA move its ranks after each step, while the step's gradients are still there.

    PEFT saves those ranks alone that its config names, but one that counts little now may come back: until training
    ends the config names none, so that checkpoints hold all, and which count and how much lies beside them.
    """

    def __init__(self, tuner: Any) -> None:
        self.allocator, self.allocate = tuner.rankallocator, tuner.update_and_allocate
        self.config = tuner.peft_config[tuner.trainable_adapter_name]
        self.counting = self.config.rank_pattern

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step:
            self._bring_back(Path(args.output_dir) / f"checkpoint-{state.global_step}", args.device)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.config.rank_pattern = self.counting
        self.allocate(state.global_step)
        self.counting, self.config.rank_pattern = self.config.rank_pattern, None

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            worth = {name: getattr(self.allocator, name) for name in IMPORTANCE}
            torch.save({"counting": self.counting, **worth}, folder / "ranks.pt")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._bring_back(Path(state.best_model_checkpoint), args.device)
        self.config.rank_pattern = self.counting

    def _bring_back(self, checkpoint: Path, device: torch.device) -> None:
        saved = torch.load(checkpoint / "ranks.pt", map_location=device, weights_only=True)
        self.counting = saved.pop("counting")
        for name, values in saved.items():
            setattr(self.allocator, name, values)


class TellEpoch(TrainerCallback):
    """Tell rows that differ from epoch to epoch which one begins; a resumed run begins in the middle of one."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.rows.epoch = int((state.epoch or 0) + 1e-6)


class Follow(TrainerCallback):
    """Tell a schedule how far training is, and the log what the schedule does."""

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


class LogFile(TrainerCallback):
    """Append each log entry as a line of JSON; a resumed run takes back what it had logged after its checkpoint."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero and self.file.is_file():
            lines = self.file.read_text().splitlines() if state.global_step else []
            lines = [line for line in lines if _step(line) <= state.global_step]
            self.file.write_text("".join(f"{line}\n" for line in lines))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            with self.file.open("a") as out:
                out.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class QuietProgress(ProgressCallback):
    """A progress bar without the log lines between: those go to the log file."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


def _step(line: str) -> float:
    """Return the step of a line of the log; a line cut off by a kill has none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
