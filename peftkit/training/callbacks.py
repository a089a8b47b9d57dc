"""Callbacks of the Trainer: AdaLoRA's ranks, epochs, schedules, checkpoints, the log file and the progress bar.

Those with a state that checkpoints need are a `CheckpointedCallback`.
"""

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from peftkit.config.progress import Stage
from peftkit.methods import Unfreezing

STATES = "callbacks.pt"  # in a checkpoint: the states of callbacks by the names of their classes
CHECKPOINT_SECONDS = 60.0  # of training between two checkpoints, at least
IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of weights in AdaLoRA (Zhang et al. 2023, section 3.2)


def allocate_ranks(tuner: Any, step: int) -> None:
    """Reallocate AdaLoRA's ranks from the gradients, which are zero where the loss does not reach a weight.

    PEFT expects a gradient of each weight; Longformer's projections for global attention may have none.
    """
    for name, weight in tuner.named_parameters():
        if "lora_" in name and weight.requires_grad and weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    tuner.update_and_allocate(step)


class CheckpointedCallback(TrainerCallback, ABC):
    """A callback with a state of plain values and tensors, which is saved and restored with each checkpoint."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state; all processes must call it."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state, before training begins or, of the best checkpoint, when it ends."""


def save_states(callbacks: Sequence[TrainerCallback], checkpoint: Path, writes: bool) -> None:
    """Write the states of callbacks into a checkpoint; all processes must call it, and one `writes`."""
    states = {type(each).__name__: each.state_dict() for each in callbacks if isinstance(each, CheckpointedCallback)}
    if writes:
        torch.save(states, checkpoint / STATES)


def load_states(callbacks: Sequence[TrainerCallback], checkpoint: Path, device: torch.device) -> None:
    """Restore the states of callbacks from a checkpoint."""
    states = torch.load(checkpoint / STATES, map_location=device, weights_only=True)
    for each in callbacks:
        if isinstance(each, CheckpointedCallback):
            each.load_state_dict(states[type(each).__name__])


class RankAllocationCallback(CheckpointedCallback):
    """Reallocate AdaLoRA's ranks after each step, before its gradients are deleted.

    PEFT saves only the ranks in its config's `rank_pattern`, but a pruned rank can be restored later. So `rank_pattern`
    is None until training ends, checkpoints have all ranks, and the state has the pattern and the importances.
    """

    def __init__(self, tuner: Any) -> None:
        self.allocator, self.tuner = tuner.rankallocator, tuner
        self.config = tuner.peft_config[tuner.trainable_adapter_name]
        self.pattern = self.config.rank_pattern

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.config.rank_pattern = self.pattern
        allocate_ranks(self.tuner, state.global_step)
        self.pattern, self.config.rank_pattern = self.config.rank_pattern, None

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            load_states([self], Path(state.best_model_checkpoint), args.device)
        self.config.rank_pattern = self.pattern

    def state_dict(self) -> dict[str, Any]:
        return {"rank_pattern": self.pattern, **{name: getattr(self.allocator, name) for name in IMPORTANCE}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pattern = state["rank_pattern"]
        for name in IMPORTANCE:
            setattr(self.allocator, name, state[name])


class SetEpochCallback(TrainerCallback):
    """Set the epoch of data that differ from epoch to epoch; a resumed run may start within an epoch."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.data.epoch = int((state.epoch or 0) + 1e-6)


class ScheduleCallback(TrainerCallback):
    """Unfreeze groups of weights by a schedule, and log the entries of the schedule."""

    def __init__(self, schedule: Unfreezing, log: Callable[[dict[str, Any]], None]) -> None:
        self.schedule, self.log = schedule, log

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        epoch = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
        for entry in self.schedule.begin(state.global_step, state.max_steps, epoch):
            self.log(entry)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # before the checkpoint is written, so that a resumed run keeps these log entries
        for entry in self.schedule.after(state.global_step):
            self.log(entry)


class SparseCheckpointsCallback(TrainerCallback):
    """Omit the checkpoint of an epoch that ends less than a minute after the last: to repeat it costs little.

    The epochs of several processes end at different times; they keep their checkpoints.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.last = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.last = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.world_size == 1 and time.perf_counter() - self.last < CHECKPOINT_SECONDS:
            control.should_save = False


class JsonLogCallback(TrainerCallback):
    """Write each log entry as a line of JSON; a resumed run starts with the entries before its checkpoint."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.file.write_text("".join(map(_line, state.log_history)), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            with self.file.open("a", encoding="utf-8") as out:
                out.write(_line(state.log_history[-1]))


class ProgressCallback(TrainerCallback):
    """Count the steps of a stage, and show the loss in it."""

    def __init__(self, progress: Stage) -> None:
        self.progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.total, self.resumed_at = state.max_steps - state.global_step, state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.done = state.global_step - self.resumed_at

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.progress.note = f"loss {float(logs['loss']):.3f}"


def _line(entry: dict[str, Any]) -> str:
    return json.dumps({"step": entry["step"], **entry}) + "\n"
