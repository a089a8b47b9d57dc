"""Undocumented parts of accelerate."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Trainer


def forget_preparation(trainer: Trainer) -> None:
    """Let a model that has predicted be prepared again for training.

    accelerate 1.15 marks it as prepared, though only for evaluation: several processes would train separately.
    """
    vars(trainer.model).pop("_is_accelerate_prepared", None)
    trainer.accelerator._models.clear()
    trainer.model_wrapped = trainer.model  # type: ignore[assignment]
