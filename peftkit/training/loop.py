"""Training and scoring with a trainer, with their seconds and peak memory."""

import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, extract_model_from_parallel
from torch.utils.data import Dataset
from transformers import Trainer
from transformers.trainer_pt_utils import nested_concat

from peftkit.compat.dropout import fast_masks
from peftkit.compat.lora import fused_lora
from peftkit.compat.peft import lora_without_casts
from peftkit.config import UserError
from peftkit.config.progress import stage
from peftkit.config.signals import deferred
from peftkit.models.frozen_weights import frozen_in
from peftkit.training.callbacks import CheckpointedCallback, ProgressCallback, load_states
from peftkit.training.checkpoints import load_state, newest_whole
from peftkit.training.embedding_rows import used_rows
from peftkit.training.micro_batches import is_out_of_memory
from peftkit.training.trainer import ScoringTrainer, scores_of


@dataclass(frozen=True)
class TrainingSummary:
    """Costs of training (seconds, peak bytes, optimizer steps), and the trainer's log."""

    seconds: float
    peak_bytes: int | None
    reserved_bytes: int | None  # by the GPU's allocator at its peak
    steps: int
    epochs: float
    history: list[dict[str, Any]] = field(default_factory=list)
    first_step: datetime | None = None  # when the first optimizer step of this process ended


@dataclass(frozen=True)
class ModelScores:
    """Scores (examples, ...) in the order of the examples, padded with -100 to the longest, and their costs."""

    scores: np.ndarray
    seconds: float
    peak_bytes: int | None


def fit(trainer: ScoringTrainer, checkpoints: Path) -> TrainingSummary:
    """Train from the newest whole checkpoint in the folder, or from the start if there is none.

    A signal interrupts it after a step, with a checkpoint. The costs of a resumed run include those before the
    interruption, up to that checkpoint. A model without trainable weights is not trained.

    Raises:
        UserError: training ended before its last step, and not by early stopping.
    """
    if not any(weight.requires_grad for weight in trainer.model.parameters()):
        return TrainingSummary(0.0, None, None, steps=0, epochs=0.0)
    last = _last_checkpoint(trainer, checkpoints)
    with peak_memory() as peak, stage("training", unit="step") as progress:
        trainer.add_callback(ProgressCallback(progress))
        tracker = ResourceTracker(trainer, peak)
        trainer.add_callback(tracker)
        if last is not None:
            trainer.resumed = load_state(last)
            trainer.args.eval_on_start = False  # it was evaluated before; early stopping counts evaluations
            load_states(trainer.callback_handler.callbacks, last, trainer.args.device)
        with fast_steps(trainer), deferred():
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        seconds, peak_bytes = tracker.totals()
        reserved = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
    state = trainer.state
    if state.global_step < state.max_steps and not trainer.has_stopped_early:
        raise UserError(
            f"training ended after {state.global_step} of {state.max_steps} steps, without early_stopping.patience; "
            "remove the callback of train.report_to that stops it, and repeat the command"
        )
    epochs, history = float(state.epoch or 0), state.log_history
    return TrainingSummary(seconds, peak_bytes, reserved, state.global_step, epochs, history, tracker.first_step)


def _last_checkpoint(trainer: ScoringTrainer, folder: Path) -> Path | None:
    """Return the checkpoint from which all processes go on; the main process looks for it."""
    found: list[Path | None] = [None]
    if trainer.is_world_process_zero() and folder.is_dir():
        found = [newest_whole(folder, trainer.args.world_size, trainer.args.load_best_model_at_end)]
    return broadcast_object_list(found)[0]  # type: ignore[no-any-return]


@contextmanager
def fast_steps(trainer: Trainer) -> Iterator[None]:
    """Save work in the training steps of this block; see docs/explanation/training-step.md."""
    arguments, is_single = trainer.args, trainer.args.world_size == 1
    with ExitStack() as means:
        if isinstance(trainer, ScoringTrainer):
            means.enter_context(used_rows(trainer))
        if arguments.bf16 or arguments.fp16:
            means.enter_context(lora_without_casts(trainer.model))
        if arguments.device.type == "cpu" and not arguments.torch_compile:
            means.enter_context(fast_masks())
            if arguments.bf16 and is_single:
                means.enter_context(frozen_in(trainer.model, torch.bfloat16))
                means.enter_context(fused_lora(trainer.model))
        yield


class ResourceTracker(CheckpointedCallback):
    """Measure the seconds and the peak memory of training, including those before a resumption.

    It also has the time at the end of the first step. Its state has what upstream's checkpoints lack of the trainer.
    """

    first_step: datetime | None = None

    def __init__(self, trainer: ScoringTrainer, peak: Callable[[], int | None]) -> None:
        self.trainer, self.peak, self.started = trainer, peak, time.perf_counter()
        self.before: dict[str, Any] = {}

    def totals(self) -> tuple[float, int | None]:
        """Return seconds and bytes, including those before the resumption."""
        seconds = time.perf_counter() - self.started + self.before.get("seconds", 0.0)
        peak = self.peak()
        return seconds, None if peak is None else max(peak, self.before.get("peak_bytes") or 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.resumed is not None:
            state.best_model_checkpoint = self.trainer.resumed.best_model_checkpoint
            self.trainer.eager_batches, self.trainer.part_size = self.before["eager_batches"], self.before["part_size"]
            self.trainer.load_log_state(self.before["log"], self.before["seconds"])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.first_step = self.first_step or datetime.now(UTC)

    def state_dict(self) -> dict[str, Any]:
        totals = dict(zip(("seconds", "peak_bytes"), self.totals(), strict=True))
        own = {name: getattr(self.trainer, name) for name in ("eager_batches", "part_size")}
        return {**totals, **own, "log": self.trainer.log_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.before = state


@contextmanager
def peak_memory() -> Iterator[Callable[[], int | None]]:
    """Measure the peak memory of the block in bytes: allocated on the GPU, resident on the CPU (Linux; else None)."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # without memory that earlier runs reserved
        torch.cuda.reset_peak_memory_stats()
        yield torch.cuda.max_memory_allocated
        return
    return_memory()  # of earlier runs
    is_reset = False
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM, see man 5 proc
        is_reset = True
    yield _resident_peak if is_reset else lambda: None


def return_memory() -> None:
    """Return freed memory to the system, which glibc keeps for later allocations; other C libraries do nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident_peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def used_memory() -> int | None:
    """Return the bytes in use now: allocated on the GPU, resident on the CPU (Linux; else None)."""
    with peak_memory() as peak:
        return peak()


class NonFiniteScoresError(ValueError):
    """The scores of a model contain NaN or inf."""


def predict_scores(
    trainer: Trainer, examples: Dataset, lengths: Sequence[int] | np.ndarray, name: str = "scoring"
) -> ModelScores:
    """Score examples, sorted by length so that batches have little padding; the result is in the given order.

    Args:
        name: of the stage that is shown.

    Raises:
        ValueError: a score is NaN or infinite.
        MemoryError: memory ran out.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    metrics, trainer.compute_metrics = trainer.compute_metrics, None  # the metrics are for the holdout
    try:
        with peak_memory() as peak, stage(name, len(order)) as trainer.scoring:  # type: ignore[attr-defined]
            started = time.perf_counter()
            scores = scores_of(trainer.predict(examples.select(order)).predictions)  # type: ignore[attr-defined]
            seconds = time.perf_counter() - started
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = trainer.args.per_device_eval_batch_size
        smaller = f"train.per_device_eval_batch_size={size // 2}" if size > 1 else "a smaller task.max_length"
        raise MemoryError(f"out of memory in scoring batches of {size}; set {smaller}") from error
    finally:
        trainer.compute_metrics = metrics
    if not np.isfinite(scores).all():
        raise NonFiniteScoresError("training diverged: logits contain NaN or inf; set a lower train.learning_rate")
    restored = np.empty_like(scores)
    restored[order] = scores
    return ModelScores(restored, seconds, peak())


def batch_scores(trainer: ScoringTrainer, inputs: Any) -> np.ndarray:
    """Return the scores (inputs, ...) of encoded examples, without the costs that `predict_scores` counts.

    More inputs than fit into a batch, the windows of long passages, are computed in several.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    rows, size, parts = inputs.to_list(), trainer.args.eval_batch_size, []
    for first in range(0, len(rows), size):
        _, scores, _ = trainer.prediction_step(trainer.model, trainer.data_collator(rows[first : first + size]), True)
        assert scores is not None
        parts.append(scores.cpu().numpy())
    found: np.ndarray = reduce(nested_concat, parts)  # pads shorter texts, as Trainer.predict does
    if not np.isfinite(found).all():
        raise ValueError("logits contain NaN or inf")
    return found


def mixed_batch_logits(trainer: Trainer, batch: dict[str, Any], adapters: list[str]) -> np.ndarray:
    """Return logits (examples, labels) of a batch with one adapter per example, in the trainer's precision."""
    model = extract_model_from_parallel(trainer.model).eval()
    inputs = {name: value.to(trainer.args.device) for name, value in batch.items()}
    with torch.no_grad(), trainer.accelerator.autocast():
        return model(**inputs, adapter_names=adapters).logits.float().cpu().numpy()  # type: ignore[no-any-return]
