"""Turn one of TRL's trainers and ours into one, which scores, orders, logs and resumes like every other trainer."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn
from transformers import TrainingArguments

from peftkit.config import UserError
from peftkit.training.trainer import ScoringTrainer


class TRLTrainerMixin(ScoringTrainer):
    """What stands before a trainer of TRL's, whose loss it takes and whose words about itself it leaves out."""

    def __init__(self, *, model: nn.Module, **settings: Any) -> None:
        trained = [(weight, weight.data) for weight in model.parameters() if weight.requires_grad]
        super().__init__(model=model, **settings)
        for weight, data in trained:  # over a quantised base TRL rounds them to bf16, where small steps vanish
            weight.data = data.to(weight.device)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        for metrics in self._metrics.values():  # type: ignore[attr-defined]
            metrics.pop("num_tokens", None)  # a resumed run would count from nothing; ours are in the result
        super().log(logs, *args, **kwargs)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: the run folder has its own."""

    def _send_telemetry(self) -> None:
        """Tell nobody."""


def trl_arguments(kind: type, arguments: TrainingArguments, **own: Any) -> Any:
    """Return arguments of TRL's kind: all as they are, none of TRL's own defaults, and no row cut.

    Raises:
        UserError: one process sees several GPUs, over which TRL trains in several processes alone.
    """
    if arguments.n_gpu > 1:
        raise UserError("TRL takes a process a GPU; say accelerate launch -m peftkit ..., or CUDA_VISIBLE_DEVICES=0")
    same = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(TrainingArguments) if field.init}
    return kind(**same, **own, max_length=None)
