"""Turn a model and its batches into a trained model: HF's Trainer on Accelerate, the one loop for every method."""

from __future__ import annotations

import ctypes
import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.trainer_utils import get_last_checkpoint


@dataclass(frozen=True)
class Fit:
    """What training spent: seconds, bytes at its peak, optimizer steps; and the epoch that was kept."""

    seconds: float
    peak_bytes: int | None
    steps: int
    epochs: float
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Predictions:
    """Scores (rows, labels) in the order of the rows, and what they cost."""

    logits: np.ndarray
    seconds: float
    peak_bytes: int | None


class ClassifierTrainer(Trainer):
    """HF's Trainer with an order of rows that depends on (seed, epoch) alone, so that a resumed run sees the same."""

    def __init__(self, *args: Any, row_sampler: Sampler | None = None, **kwargs: Any) -> None:
        self.row_sampler = row_sampler
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return self.row_sampler or super()._get_train_sampler(train_dataset)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        return None if eval_dataset is None else torch.utils.data.SequentialSampler(eval_dataset)


class TextToTextTrainer(ClassifierTrainer):
    """A trainer whose predictions are the log-likelihoods of the label words (T5 paper, section 2.4)."""

    def __init__(self, *args: Any, label_ids: np.ndarray, **kwargs: Any) -> None:
        self.label_words = torch.as_tensor(label_ids)
        super().__init__(*args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            scores = label_likelihoods(model, inputs["input_ids"], inputs["attention_mask"], self.label_words)
        return None, scores.float(), inputs.get("labels")


def label_likelihoods(
    model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, label_ids: torch.Tensor
) -> torch.Tensor:
    """Return log p(label word | input), (rows, labels), summed over the word's tokens.

    The encoder runs once a row; a soft prompt, which only the whole model adds, is in the states that it returns.

    Args:
        input_ids: (rows, tokens). attention_mask: (rows, tokens).
        label_ids: (labels, tokens), padded with -100.
    """
    rows, labels = len(input_ids), len(label_ids)
    label_ids = label_ids.to(input_ids.device)
    first = label_ids[:1].repeat(rows, 1)
    states = model(input_ids=input_ids, attention_mask=attention_mask, labels=first).encoder_last_hidden_state
    prompt = states.shape[1] - attention_mask.shape[1]
    mask = torch.cat([attention_mask.new_ones(rows, prompt), attention_mask], dim=1)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    targets = label_ids.repeat(rows, 1)
    out = base(
        encoder_outputs=BaseModelOutput(last_hidden_state=states.repeat_interleave(labels, dim=0)),
        attention_mask=mask.repeat_interleave(labels, dim=0),
        labels=targets,
    )
    log_probabilities = out.logits.float().log_softmax(dim=-1)
    taken = log_probabilities.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (taken * (targets >= 0)).sum(dim=-1).view(rows, labels)


def make_trainer(
    model: nn.Module,
    arguments: TrainingArguments,
    collate: Callable,
    train: Dataset | None = None,
    holdout: Dataset | None = None,
    sampler: Sampler | None = None,
    score: Callable[[np.ndarray], dict[str, float]] | None = None,
    label_ids: np.ndarray | None = None,
    patience: int | None = None,
    log: Path | None = None,
) -> ClassifierTrainer:
    """Put the parts together; `label_ids` makes it a text-to-text trainer, `score` rates logits on the holdout."""
    settings: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "data_collator": collate,
        "train_dataset": train,
        "eval_dataset": holdout,
        "compute_metrics": None if score is None else lambda evaluation: score(_first(evaluation.predictions)),
        "row_sampler": sampler,
        "callbacks": [] if patience is None else [EarlyStoppingCallback(patience)],
    }
    if label_ids is not None:
        trainer: ClassifierTrainer = TextToTextTrainer(label_ids=label_ids, **settings)
    else:
        trainer = ClassifierTrainer(**settings)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if not arguments.disable_tqdm:
        trainer.add_callback(QuietProgress)
    if log is not None:
        trainer.add_callback(LogFile(log))
    if hasattr(getattr(model, "base_model", None), "update_and_allocate"):
        trainer.add_callback(AllocateRanks)
    return trainer


def training_arguments(
    settings: dict[str, Any], seed: int, folder: Path, select_best: bool, save: bool = True
) -> TrainingArguments:
    """Return HF's arguments: the user's as they are, bf16 where the hardware has it and nothing was said."""
    own: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "remove_unused_columns": False,
        "eval_strategy": "epoch" if select_best else "no",
        "save_strategy": "epoch" if save else "no",
        "save_total_limit": 1,
        "load_best_model_at_end": select_best,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.accelerator.is_available(),
        "ddp_find_unused_parameters": False,  # every weight that trains gets a gradient
    }
    if select_best:
        own |= {"metric_for_best_model": "score", "greater_is_better": True}
    if not {"bf16", "fp16"} & settings.keys():
        own["bf16"] = precision_of(settings) == "bf16"
    chosen = own | settings
    if not save:  # nothing trains: what the user said of training does not count
        chosen |= {"eval_strategy": "no", "save_strategy": "no", "report_to": "none"}
    return TrainingArguments(**chosen)


def precision_of(settings: dict[str, Any]) -> str:
    """Return bf16, fp16 or fp32: as the settings say, else bf16 where the hardware has it."""
    said = {"bf16", "fp16"} & settings.keys()
    if not said:
        return "bf16" if has_bf16() else "fp32"
    return next((name for name in ("bf16", "fp16") if settings.get(name)), "fp32")


def has_bf16() -> bool:
    """Tell whether this machine multiplies in bf16: Ampere and later, or a CPU with AVX512-BF16 or AMX."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def fit(trainer: Trainer, checkpoints: Path) -> Fit:
    """Train from the last checkpoint in the folder, or from the start where there is none.

    What a resumed run had spent before it was broken off counts too, up to its last checkpoint.
    """
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    with peak_memory() as peak:
        spent = Spent(Path(last) if last else None, peak)
        trainer.add_callback(spent)
        trainer.train(resume_from_checkpoint=last)
        seconds, peak_bytes = spent.now()
    state = trainer.state
    return Fit(seconds, peak_bytes, state.global_step, float(state.epoch or 0), state.log_history)


def predict(trainer: Trainer, rows: Dataset, lengths: list[int]) -> Predictions:
    """Score rows, longest first so that batches hold little padding; the answer is in the rows' order."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    rows = rows.remove_columns("labels")  # type: ignore[attr-defined]  # hidden ones would break the loss
    with peak_memory() as peak:
        started = time.perf_counter()
        logits = _first(trainer.predict(rows.select(order)).predictions)  # type: ignore[attr-defined]
        seconds = time.perf_counter() - started
    if not np.isfinite(logits).all():
        raise ValueError("training diverged: the model's scores are no numbers; try a lower train.learning_rate")
    back = np.empty_like(logits)
    back[order] = logits
    return Predictions(back, seconds, peak())


@contextmanager
def peak_memory() -> Iterator[Callable[[], int | None]]:
    """Measure the block's own peak in bytes: allocated on the GPU, resident on the CPU (Linux; else None)."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield torch.cuda.max_memory_allocated
        return
    give_back_memory()
    try:
        clear.write_text("5")  # sets VmHWM back to the present size, see man 5 proc
        can_reset = True
    except OSError:
        can_reset = False

    def read() -> int | None:
        if not can_reset:
            return None
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    yield read


def give_back_memory() -> None:
    """Return to the system what earlier runs of this process left with the allocator, so that no later one pays."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return


class Spent(TrainerCallback):
    """Keep in each checkpoint the seconds and the peak of memory that it took to get there."""

    def __init__(self, last: Path | None, peak: Callable[[], int | None]) -> None:
        self.started, self.peak = time.perf_counter(), peak
        file = None if last is None else last / "spent.json"
        self.before = json.loads(file.read_text()) if file is not None and file.is_file() else {}

    def now(self) -> tuple[float, int | None]:
        """Return seconds and bytes, those before a resumption included."""
        peak, before = self.peak(), self.before.get("peak_bytes")
        seconds = time.perf_counter() - self.started + self.before.get("seconds", 0.0)
        return seconds, peak if peak is None or before is None else max(peak, before)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            seconds, peak_bytes = self.now()
            (folder / "spent.json").write_text(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes}))


class AllocateRanks(TrainerCallback):
    """Let AdaLoRA move its ranks after each step, while the step's gradients are still there."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        extract_model_from_parallel(model).base_model.update_and_allocate(state.global_step)


class LogFile(TrainerCallback):
    """Append each log entry as a line of JSON; a resumed run takes back what it had logged after its checkpoint."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero and self.file.is_file():
            lines = [line for line in self.file.read_text().splitlines() if _step(line) <= state.global_step]
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


def _first(predictions: Any) -> np.ndarray:
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)
