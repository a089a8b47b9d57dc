"""The vector of activation steering: from the states of training examples, saved, and loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from peftkit.config import UserError, refusal
from peftkit.config.progress import stage
from peftkit.data.formats.prompted import PromptedFormat
from peftkit.methods.steering import Steering, SteeringVector
from peftkit.paths import atomic_write

FILE, BATCH = "steering.safetensors", 16


@dataclass(frozen=True)
class SteeringRecord:
    """What a vector was computed from, for `audit.steering` of result.json."""

    layer: str
    classes: list[str]  # the states of the first are subtracted from those of the second
    examples: list[int]  # of each class
    vector_norm: float  # of the difference, without its strength
    state_norm: float  # the mean over all these examples


def steering_vector(
    model: Any, task_format: PromptedFormat, examples: Dataset, method: Steering, seed: int
) -> tuple[SteeringVector, SteeringRecord]:
    """Return the vector of a method, from a sample of the training examples that depends only on the seed.

    The state of an example is that at its last prompt token, where a decoder predicts the label; of T5 that at the
    decoder's first token.

    Raises:
        UserError: the task has other than two classes, or one of them has no example.
    """
    names = task_format.names or []
    if len(names) != 2:
        wrong = f"method=steering needs two classes, and task={task_format.task.name} has {len(names)}"
        raise UserError(refusal(wrong, "method=zero_shot"))
    layer, labels = method.layer_name(model), np.asarray(examples["label"])
    order = np.random.default_rng(seed).permutation(len(labels))
    groups = [sorted(order[labels[order] == label][: method.samples].tolist()) for label in (0, 1)]
    if missing := [name for name, rows in zip(names, groups, strict=True) if not rows]:
        raise UserError(
            f"method=steering: no training example has the label {missing[0]}; raise task.max_train_samples, or use "
            "method=zero_shot"
        )
    states = [last_states(model, task_format, examples.select(rows), layer) for rows in groups]
    difference = states[1].mean(dim=0) - states[0].mean(dim=0)
    record = SteeringRecord(
        layer,
        list(names),
        list(map(len, groups)),
        float(difference.norm()),
        float(torch.cat(states).norm(dim=-1).mean()),
    )
    return SteeringVector(layer, method.strength * difference), record


@torch.no_grad()
def last_states(model: Any, task_format: PromptedFormat, examples: Dataset, layer: str) -> torch.Tensor:
    """Return the outputs of a layer (examples, dim), in fp32, at the position that predicts the label."""
    kept: list[torch.Tensor] = []

    def keep(_: Any, inputs: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    found, collate = [], task_format.collator()
    handle = model.eval().get_submodule(layer).register_forward_hook(keep)
    inputs: list[dict[str, Any]] = list(task_format.encode(examples).inputs)[: len(examples)]
    try:
        with stage("averaging states", len(inputs)) as progress:
            for first in range(0, len(inputs), BATCH):
                batch = {name: value.to(model.device) for name, value in collate(inputs[first : first + BATCH]).items()}
                size, last = len(batch["input_ids"]), batch["attention_mask"].sum(dim=1) - 1
                if model.config.is_encoder_decoder:
                    batch["decoder_input_ids"] = torch.full_like(last, model.config.decoder_start_token_id)[:, None]
                    last = torch.zeros_like(last)
                model(**batch)
                found.append(kept.pop()[torch.arange(size, device=last.device), last].float().cpu())
                progress.done += size
    finally:
        handle.remove()
    return torch.cat(found)


def save_steering(steering: SteeringVector, folder: Path) -> None:
    """Save a vector beside its prompt."""
    with atomic_write(folder / FILE) as part:
        save_file({"vector": steering.vector.contiguous()}, part, {"layer": steering.layer})


def load_steering(folder: Path, method: Steering, model: Any) -> SteeringVector | None:
    """Return the vector of a run, None where its strength is 0.

    Raises:
        UserError: its file is missing, or is that of a model of another size.
    """
    if method.strength == 0:
        return None
    if not (folder / FILE).is_file():
        raise UserError(f"{folder / FILE} is missing; train the run again")
    vector = load_file(folder / FILE)["vector"]
    if vector.shape != (model.config.hidden_size,):
        raise UserError(f"{folder / FILE} has the shape {tuple(vector.shape)}; train the run again")
    return SteeringVector(method.layer_name(model), vector)
