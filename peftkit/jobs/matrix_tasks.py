"""The check of job=matrix that a method trains on several tasks (`tasks=[...]`), with and without their tags."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn

from peftkit.config import RunConfig
from peftkit.config.checks.several_tasks import several_task_errors
from peftkit.config.source import Source
from peftkit.methods import is_task_head, tie_models
from peftkit.pipeline.build import build
from peftkit.pipeline.tags import write_tags
from peftkit.pipeline.verify import VerificationError
from peftkit.training import MultiTaskModel, model_loss

TASKS, STEPS = ("first", "second"), 4


def trains_two_tasks(
    config: RunConfig, source: Source, names: list[str] | None, examples: Dataset, scratch: Path, tags: bool
) -> bool:
    """Return whether a method trains a body with two heads, False where peftkit refuses it; `scratch` is a folder.

    Raises:
        VerificationError: the tasks share a weight of their heads, a trainable weight gets no gradient, or a frozen one
            changes.
    """
    tasks = [replace(config.task, name=name) for name in TASKS]
    together = replace(config, tasks=tasks, multitask=replace(config.multitask, tags=tags or None))
    if several_task_errors(together):
        return False
    vocabularies = write_tags(config, source, TASKS, scratch / "tags") if tags else {}
    built = [build(replace(config, vocab=vocabularies.get(name)), source, names, examples) for name in TASKS]
    models = [bundle.model for bundle, _ in built]
    tie_models(models)
    if set.intersection(*map(_head, models)):
        raise VerificationError("the tasks share a weight of their heads")
    batches = [bundle.format.collator()(list(encoded.inputs)) for bundle, encoded in built]
    model = MultiTaskModel(models, [model_loss] * len(models), [1.0] * len(models)).train()
    _train(model, [{name: value.to(models[0].device) for name, value in batch.items()} for batch in batches])
    return True


def _head(model: nn.Module) -> set[nn.Parameter]:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return {weight for name, weight in model.named_parameters() if is_task_head(name, base)}


def _train(model: MultiTaskModel, batches: list[dict[str, Any]]) -> None:
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    frozen = {name: weight.detach().clone() for name, weight in model.named_parameters() if name not in trained}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    with_gradient: set[str] = set()
    for _ in range(STEPS):
        for task, batch in enumerate(batches):
            loss = model({task: batch})
            if not math.isfinite(loss.item()):
                raise VerificationError("the loss of several tasks is NaN or inf")
            loss.backward()
            with_gradient |= {name for name, weight in trained.items() if weight.grad is not None and weight.grad.any()}
            optimizer.step()
            optimizer.zero_grad()
    if missing := sorted(trained.keys() - with_gradient):
        raise VerificationError(f"{len(missing)} trainable weights of several tasks get no gradient, as {missing[0]}")
    if changed := [name for name, weight in frozen.items() if not torch.equal(weight, model.get_parameter(name))]:
        raise VerificationError(f"{len(changed)} frozen weights of several tasks changed, the first is {changed[0]}")
