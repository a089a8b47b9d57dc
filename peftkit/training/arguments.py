"""Turn a user's settings into HF's training arguments, in the precision that the hardware has."""

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
    freezes: bool = False,
    follows: bool = False,
) -> TrainingArguments:
    """Return HF's arguments: the user's as they are, bf16 where the hardware has it and nothing was said.

    `follows`: the holdout is scored after each epoch, though nothing is chosen by it. `freezes`: some of the weights
    that train are frozen for a time.
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
