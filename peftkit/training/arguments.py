"""HF's training arguments from a user's settings, in the precision that the hardware supports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments


def training_arguments(
    settings: dict[str, Any],
    seed: int,
    folder: Path,
    select_best: bool,
    save: bool = True,
    unused_parameters: bool = False,
    evaluate_epochs: bool = False,
) -> TrainingArguments:
    """Return HF's arguments: the user's unchanged, and bf16 where the hardware has it and no precision is set.

    Args:
        select_best: evaluate the holdout after each epoch, and load the best one at the end.
        save: False of a trainer that only predicts: the settings of training are ignored.
        unused_parameters: some of the weights that train are frozen for a time.
        evaluate_epochs: evaluate the holdout after each epoch without selecting by it.
    """
    own: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "remove_unused_columns": False,
        "eval_strategy": "epoch" if select_best or evaluate_epochs else "no",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": select_best,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.accelerator.is_available(),
        "ddp_find_unused_parameters": unused_parameters,
    }
    if select_best:
        own |= {"metric_for_best_model": "score", "greater_is_better": True}
    if not {"bf16", "fp16"} & settings.keys():
        own["bf16"] = supports_bf16()
    only_predicts = {} if save else {"eval_strategy": "no", "save_strategy": "no", "report_to": "none"}
    return TrainingArguments(**{**own, **settings, **only_predicts})


def precision_of(settings: dict[str, Any]) -> str:
    """Return bf16, fp16 or fp32: as set, else bf16 where the hardware has it."""
    if not {"bf16", "fp16"} & settings.keys():
        return "bf16" if supports_bf16() else "fp32"
    return next((name for name in ("bf16", "fp16") if settings.get(name)), "fp32")


def supports_bf16() -> bool:
    """Return whether this machine multiplies in bf16: Ampere and later, or a CPU with AVX512-BF16 or AMX."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
