"""Turn a model and its batches into a trained model: HF's Trainer on Accelerate, the one loop for every method."""

from __future__ import annotations

import ctypes
import gc
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

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
from transformers.trainer_utils import get_last_checkpoint

from peftkit.scores import Scores


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
    """Scores (rows, ...) in the order of the rows, each padded with -100 to the longest, and what they cost."""

    scores: np.ndarray
    seconds: float
    peak_bytes: int | None


class Schedule(Protocol):
    """What changes the model while it trains; each answer holds entries for the log."""

    rates: dict[str, float]  # a share of the learning rate for each weight by its name

    def begin(self, step: int, steps: int, epoch: int) -> list[dict[str, Any]]:
        """Take the model to where it was after this step of so many, `epoch` of them an epoch."""

    def after(self, step: int) -> list[dict[str, Any]]:
        """Take the model from one step to the next."""


class ScoringTrainer(Trainer):
    """HF's Trainer with an order of rows that depends on (seed, epoch) alone, so that a resumed run sees the same.

    What it predicts is what `scores` reads from the model.
    """

    def __init__(
        self,
        *args: Any,
        scores: Scores,
        row_sampler: Sampler | None = None,
        rates: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.scores, self.row_sampler, self.rates = scores, row_sampler, rates
        super().__init__(*args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Give each weight its share of the learning rate; weights that are frozen for now are in it too."""
        if self.rates is not None and self.optimizer is None:
            module = self.model if model is None else model
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, module)
            groups = _parameter_groups(module, self.rates, set(self.get_decay_parameter_names(module)), self.args)
            self.optimizer_cls_and_kwargs = kind, {**settings, "params": groups}
        return super().create_optimizer(model)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return self.row_sampler or super()._get_train_sampler(train_dataset)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        return None if eval_dataset is None else torch.utils.data.SequentialSampler(eval_dataset)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            scores = self.scores(model, inputs).float()
        return None, scores, scores.new_zeros(len(scores))  # the labels are no matter here: who asks holds them


def make_trainer(
    model: nn.Module,
    arguments: TrainingArguments,
    collate: Callable,
    scores: Scores,
    train: Dataset | None = None,
    holdout: Dataset | None = None,
    sampler: Sampler | None = None,
    score: Callable[[np.ndarray], dict[str, float]] | None = None,
    patience: int | None = None,
    log: Path | None = None,
    schedule: Schedule | None = None,
) -> ScoringTrainer:
    """Put the parts together; `score` rates what `scores` reads from the model on the holdout."""
    settings: dict[str, Any] = {
        "model": model,
        "scores": scores,
        "args": arguments,
        "data_collator": collate,
        "train_dataset": train,
        "eval_dataset": holdout,
        "compute_metrics": None if score is None else lambda evaluation: score(_first(evaluation.predictions)),
        "row_sampler": sampler,
        "rates": None if schedule is None else schedule.rates,
        "callbacks": [] if patience is None else [EarlyStoppingCallback(patience)],
    }
    trainer = ScoringTrainer(**settings)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if not arguments.disable_tqdm:
        trainer.add_callback(QuietProgress)
    if log is not None:
        trainer.add_callback(LogFile(log))
    if hasattr(getattr(model, "base_model", None), "update_and_allocate"):
        trainer.add_callback(AllocateRanks)
    if schedule is not None:
        trainer.add_callback(Follow(schedule, trainer.log))
    return trainer


def _parameter_groups(
    model: nn.Module, rates: Mapping[str, float], decaying: set[str], arguments: TrainingArguments
) -> list[dict[str, Any]]:
    """Return groups of weights of one rate and one weight decay, in the order of the rates."""
    weights = dict(model.named_parameters())
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, rate in rates.items():
        groups.setdefault((rate, name in decaying), []).append(weights[name])
    return [
        {
            "params": members,
            "lr": arguments.learning_rate * rate,
            "weight_decay": arguments.weight_decay if decays else 0.0,
        }
        for (rate, decays), members in groups.items()
    ]


def training_arguments(
    settings: dict[str, Any],
    seed: int,
    folder: Path,
    select_best: bool,
    save: bool = True,
    freezes: bool = False,
    follows: bool = False,
) -> TrainingArguments:
    """Return HF's arguments: the user's as they are, bf16 where the hardware has it and nothing was said.

    `follows`: the holdout is scored after each epoch, though nothing is chosen by it. `freezes`: some of the weights that train are frozen for a time.
    """
    own: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "remove_unused_columns": False,
        "eval_strategy": "epoch" if select_best or follows else "no",
        "save_strategy": "epoch" if save else "no",
        "save_total_limit": 1,
        "load_best_model_at_end": select_best,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.accelerator.is_available(),
        "ddp_find_unused_parameters": freezes,  # else every weight that trains gets a gradient
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
    with peak_memory() as peak:
        started = time.perf_counter()
        scores = _first(trainer.predict(rows.select(order)).predictions)  # type: ignore[attr-defined]
        seconds = time.perf_counter() - started
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


def mixed_scores(model: Any, batch: dict[str, Any], names: list[str]) -> np.ndarray:
    """Return the scores (rows, labels) of a batch whose rows have an adapter each."""
    device = next(model.parameters()).device
    with torch.no_grad():
        inputs = {name: value.to(device) for name, value in batch.items()}
        return model(**inputs, adapter_names=names).logits.float().cpu().numpy()  # type: ignore[no-any-return]


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


def _first(predictions: Any) -> np.ndarray:
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)
