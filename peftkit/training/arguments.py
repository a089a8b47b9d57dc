"""The arguments of HF's Trainer: the user's, and peftkit's defaults."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments


def training_arguments(
    settings: dict[str, Any],
    seed: int,
    folder: Path | None = None,
    select_best: bool = False,
    unused_parameters: bool = False,
    evaluate_epochs: bool = False,
) -> TrainingArguments:
    """Return HF's arguments: the user's unchanged, and bf16 if the hardware supports it and no precision is set.

    Args:
        folder: of the checkpoints; None disables saving and evaluation, as for predictions.
        select_best: evaluate the holdout after each epoch, and load the best one at the end.
        unused_parameters: some trainable weights are temporarily frozen.
        evaluate_epochs: evaluate the holdout after each epoch, without selecting the best.
    """
    defaults: dict[str, Any] = {
        "output_dir": str(folder or tempfile.gettempdir()),
        "seed": seed,
        "data_seed": seed,
        "bf16": precision_of(settings) == "bf16",
        "remove_unused_columns": False,
        "eval_strategy": "epoch" if select_best or evaluate_epochs else "no",
        "save_strategy": "epoch",
        "save_total_limit": 2 if select_best else 1,  # with 1, upstream removes the last one before the run has ended
        "load_best_model_at_end": select_best,
        "restore_callback_states_from_checkpoint": True,
        "metric_for_best_model": "score" if select_best else None,
        "greater_is_better": select_best or None,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.accelerator.is_available(),
        "ddp_find_unused_parameters": unused_parameters,
        "log_level_replica": "passive",  # as in the first process; others would log every missing head
        "logging_nan_inf_filter": False,  # it logs other losses in place of those that are not finite
    }
    disabled = {"eval_strategy": "no", "save_strategy": "no", "report_to": "none"}
    trackers = [name for name in listed_trackers(settings) if "." not in name]
    ours = {"report_to": trackers or "none", "auto_find_batch_size": False}  # `SplittingTrainer` replaces the latter
    return TrainingArguments(**{**defaults, **settings, **ours, **({} if folder else disabled)})


def listed_trackers(settings: Mapping[str, Any]) -> list[str]:
    """Return train.report_to as a list."""
    named = settings.get("report_to") or []
    return [named] if isinstance(named, str) else list(named)


def own_trackers(settings: Mapping[str, Any]) -> list[str]:
    """Return the trackers of train.report_to that are classes of the user's own, by their full names."""
    return [name for name in listed_trackers(settings) if "." in name]


def precision_of(settings: dict[str, Any]) -> str:
    """Return bf16, fp16 or fp32: as set, else bf16 if the hardware supports it.

    Supported are GPUs since Ampere, and CPUs with AVX512-BF16 or AMX.
    """
    if {"bf16", "fp16"} & settings.keys():
        return next((name for name in ("bf16", "fp16") if settings.get(name)), "fp32")
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"
