"""A run of peftkit under torchrun whose model is sharded by torch's `fully_shard` on CPUs.

accelerate 1.15 shards on GPUs only, and stays with DDP on a CPU. `python -m helpers.sharded_run FILE OVERRIDES...` writes to
FILE what was sharded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from helpers import commands
from peftkit.compat.trainer import SamplerTrainer

SEEN: dict[str, Any] = {}


class Seen(TrainerCallback):
    """Records after each step which weights are shards."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        weights = dict(model.named_parameters())
        SEEN["sharded"] = sorted(name for name, weight in weights.items() if isinstance(weight, DTensor))
        SEEN["whole"] = sorted(name for name, weight in weights.items() if not isinstance(weight, DTensor))
        SEEN["local"] = sum(weight.to_local().numel() for weight in weights.values() if isinstance(weight, DTensor))
        SEEN["total"] = sum(weight.numel() for weight in weights.values())


def shard(model: Any) -> None:
    """Shard each layer, and the rest with the root, as accelerate does on GPUs."""
    layers = {name for each in model.modules() for name in getattr(each, "_no_split_modules", None) or ()}
    for module in model.modules():
        if type(module).__name__ in layers and not isinstance(module, FSDPModule):
            fully_shard(module)
    fully_shard(model)


def main(file: str, overrides: list[str]) -> None:
    create, prepare = SamplerTrainer.create_optimizer, Accelerator.prepare_model

    def create_optimizer(self: Any, *arguments: Any) -> Any:
        shard(self.model)
        self.add_callback(Seen())
        return create(self, *arguments)

    def prepare_model(self: Any, model: Any, *arguments: Any, **settings: Any) -> Any:
        if isinstance(model, FSDPModule):  # no DDP around it
            self._models.append(model)
            return model
        return prepare(self, model, *arguments, **settings)

    SamplerTrainer.create_optimizer, Accelerator.prepare_model = create_optimizer, prepare_model  # type: ignore[method-assign]
    (folder,) = commands.finetune(*overrides)
    if torch.distributed.get_rank() == 0:
        Path(file).write_text(json.dumps(SEEN | {"folder": str(folder)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
