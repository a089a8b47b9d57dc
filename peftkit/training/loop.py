"""Training, scoring and generating with a trainer, and what each cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch.utils.data import Dataset
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from peftkit.training.resources import ResourceTracker, peak_memory
from peftkit.training.trainer import scores_of


@dataclass(frozen=True)
class TrainingSummary:
    """What training cost (seconds, bytes at its peak, optimizer steps), and the trainer's log."""

    seconds: float
    peak_bytes: int | None
    reserved_bytes: int | None  # by the GPU's allocator at its peak
    steps: int
    epochs: float
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class ModelScores:
    """Scores (examples, ...) in the order of the examples, padded with -100 to the longest, and what they cost."""

    scores: np.ndarray
    seconds: float
    peak_bytes: int | None


def fit(trainer: Trainer, checkpoints: Path) -> TrainingSummary:
    """Train from the last checkpoint in the folder, or from the start where there is none.

    The costs of a resumed run include those before the interruption, up to the last checkpoint. A model without a
    trainable weight stays unchanged.
    """
    if not any(weight.requires_grad for weight in trainer.model.parameters()):
        return TrainingSummary(seconds=0.0, peak_bytes=None, reserved_bytes=None, steps=0, epochs=0.0)
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    with peak_memory() as peak:
        tracker = ResourceTracker(Path(last) if last else None, peak)
        trainer.add_callback(tracker)
        trainer.train(resume_from_checkpoint=last)
        seconds, peak_bytes = tracker.totals()
        reserved = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
    state = trainer.state
    return TrainingSummary(seconds, peak_bytes, reserved, state.global_step, float(state.epoch or 0), state.log_history)


def predict(trainer: Trainer, examples: Dataset, lengths: Sequence[int] | np.ndarray) -> ModelScores:
    """Score examples, the longest first so that batches have little padding; the result is in the given order.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    metrics, trainer.compute_metrics = trainer.compute_metrics, None  # those score the holdout, not these examples
    try:
        with peak_memory() as peak:
            started = time.perf_counter()
            scores = scores_of(trainer.predict(examples.select(order)).predictions)  # type: ignore[attr-defined]
            seconds = time.perf_counter() - started
    finally:
        trainer.compute_metrics = metrics
    if not np.isfinite(scores).all():
        raise ValueError("training diverged: logits contain NaN or inf; set a lower train.learning_rate")
    restored = np.empty_like(scores)
    restored[order] = scores
    return ModelScores(restored, seconds, peak())


def generate(
    trainer: Trainer, prompts: list[list[int]], pad: int, max_new_tokens: int, end: int | None
) -> tuple[list[list[int]], float]:
    """Return the token ids that the model generates greedily after each prompt, and the seconds it took.

    A decoder's prompts are padded on the left, so that the new tokens follow the prompt.
    """
    model = extract_model_from_parallel(trainer.model).eval()
    is_decoder, size = not model.config.is_encoder_decoder, trainer.args.eval_batch_size
    order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")
    generated: dict[int, list[int]] = {}
    started = time.perf_counter()
    for first in range(0, len(order), size):
        batch = order[first : first + size]
        width = max(len(prompts[number]) for number in batch)
        ids = torch.full((len(batch), width), pad)
        mask = torch.zeros_like(ids)
        for row, number in enumerate(batch):
            length = len(prompts[number])
            place = slice(width - length, width) if is_decoder else slice(0, length)
            ids[row, place], mask[row, place] = torch.tensor(prompts[number]), 1
        with torch.no_grad(), trainer.compute_loss_context_manager():
            out = model.generate(
                input_ids=ids.to(trainer.args.device), attention_mask=mask.to(trainer.args.device),
                max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad, eos_token_id=end,
            )  # fmt: skip
        generated |= dict(zip(batch.tolist(), out[:, width if is_decoder else 1 :].tolist(), strict=True))
    return [generated[number] for number in range(len(prompts))], time.perf_counter() - started


def mixed_batch_logits(trainer: Trainer, batch: dict[str, Any], adapters: list[str]) -> np.ndarray:
    """Return logits (examples, labels) of a batch with an adapter for each example, in the trainer's precision."""
    model = extract_model_from_parallel(trainer.model).eval()
    inputs = {name: value.to(trainer.args.device) for name, value in batch.items()}
    with torch.no_grad(), trainer.accelerator.autocast():
        return model(**inputs, adapter_names=adapters).logits.float().cpu().numpy()  # type: ignore[no-any-return]
