"""Turn a trainer into a trained model, into scores of rows, or into what the model writes; and what each cost."""

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
from peftkit.training.trainer import first_of


@dataclass(frozen=True)
class Fit:
    """What training spent: seconds, bytes at its peak, optimizer steps; and the epoch that was kept."""

    seconds: float
    peak_bytes: int | None
    reserved_bytes: int | None  # what the GPU's allocator held at its peak
    steps: int
    epochs: float
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Predictions:
    """Scores (rows, ...) in the order of the rows, each padded with -100 to the longest, and what they cost."""

    scores: np.ndarray
    seconds: float
    peak_bytes: int | None


def fit(trainer: Trainer, checkpoints: Path) -> Fit:
    """Train from the last checkpoint in the folder, or from the start where there is none.

    What a resumed run had spent before it was broken off counts too, up to its last checkpoint. A model without a
    weight that trains stays as it is.
    """
    if not any(weight.requires_grad for weight in trainer.model.parameters()):
        return Fit(seconds=0.0, peak_bytes=None, reserved_bytes=None, steps=0, epochs=0.0)
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    with peak_memory() as peak:
        spent = ResourceTracker(Path(last) if last else None, peak)
        trainer.add_callback(spent)
        trainer.train(resume_from_checkpoint=last)
        seconds, peak_bytes = spent.now()
        reserved = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
    state = trainer.state
    return Fit(seconds, peak_bytes, reserved, state.global_step, float(state.epoch or 0), state.log_history)


def forget_preparation(trainer: Trainer) -> None:
    """Let a model that has predicted be prepared again for training.

    accelerate 1.15 marks it as prepared, though it was so for evaluation alone: several processes would train apart.
    """
    vars(trainer.model).pop("_is_accelerate_prepared", None)
    trainer.accelerator._models.clear()
    trainer.model_wrapped = trainer.model  # type: ignore[assignment]


def predict(trainer: Trainer, rows: Dataset, lengths: Sequence[int] | np.ndarray) -> Predictions:
    """Score rows, longest first so that batches hold little padding; the answer is in the rows' order."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    chooses, trainer.compute_metrics = trainer.compute_metrics, None  # which rates the holdout, and no other rows
    try:
        with peak_memory() as peak:
            started = time.perf_counter()
            scores = first_of(trainer.predict(rows.select(order)).predictions)  # type: ignore[attr-defined]
            seconds = time.perf_counter() - started
    finally:
        trainer.compute_metrics = chooses
    if not np.isfinite(scores).all():
        raise ValueError("training diverged: the model's scores are no numbers; try a lower train.learning_rate")
    back = np.empty_like(scores)
    back[order] = scores
    return Predictions(back, seconds, peak())


def generate(
    trainer: Trainer, prompts: list[list[int]], pad: int, longest: int, end: int | None
) -> tuple[list[list[int]], float]:
    """Return what the model writes after each prompt, greedily, at most so many tokens, and the seconds it took.

    A decoder's prompts are padded on the left, so that it goes on where they end.
    """
    model = extract_model_from_parallel(trainer.model).eval()
    is_decoder, size = not model.config.is_encoder_decoder, trainer.args.eval_batch_size
    order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")
    written: dict[int, list[int]] = {}
    started = time.perf_counter()
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        width = max(len(prompts[row]) for row in rows)
        ids = torch.full((len(rows), width), pad)
        seen = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            length = len(prompts[row])
            place = slice(width - length, width) if is_decoder else slice(0, length)
            ids[number, place], seen[number, place] = torch.tensor(prompts[row]), 1
        ids, seen = ids.to(trainer.args.device), seen.to(trainer.args.device)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            out = model.generate(
                input_ids=ids, attention_mask=seen, max_new_tokens=longest, do_sample=False, pad_token_id=pad,
                eos_token_id=end,
            )  # fmt: skip
        written |= dict(zip(rows.tolist(), out[:, width if is_decoder else 1 :].tolist(), strict=True))
    return [written[row] for row in range(len(prompts))], time.perf_counter() - started


def mixed_scores(trainer: Trainer, batch: dict[str, Any], names: list[str]) -> np.ndarray:
    """Return the scores (rows, labels) of a batch whose rows have an adapter each, in the trainer's precision."""
    model = extract_model_from_parallel(trainer.model).eval()
    inputs = {name: value.to(trainer.args.device) for name, value in batch.items()}
    with torch.no_grad(), trainer.accelerator.autocast():
        return model(**inputs, adapter_names=names).logits.float().cpu().numpy()  # type: ignore[no-any-return]
