"""Build a run: load its tokenizer and model, apply its method, and encode its training examples."""

from __future__ import annotations

import inspect
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from peftkit.config import RunConfig, TaskConfig, UserError
from peftkit.config.source import Source
from peftkit.data.datasets import TaskDataset, example_reader
from peftkit.data.formats import Encoded, Format
from peftkit.methods import Gradual, Unfreezing, wrap
from peftkit.models.embedding_rows import grow
from peftkit.models.load import load_model, load_tokenizer
from peftkit.pipeline.prompting import add_shots, format_for, head_kind
from peftkit.pipeline.sources import tokenizer_source
from peftkit.results.console import log
from peftkit.training import training_arguments


@dataclass
class TrainingBundle:
    """A model that is ready to train, with the tokenizer and format of its batches."""

    model: Any
    tokenizer: Any
    format: Format  # encodes examples, and decodes scores to predictions
    schedule: Unfreezing | None = None  # of gradual unfreezing


def _warn_new_weights(model: Any, source: Source, task: TaskConfig) -> None:
    """Warn about weights that the checkpoint lacks and that are therefore newly initialized."""
    if getattr(model, "fresh_head", None) and task.kind == "language_modeling":
        log(f"!! {source.name} has no masked language model head: it is newly initialized and trained")
    elif any(name.startswith(f"{model.base_model_prefix}.") for name in getattr(model, "fresh_head", [])):
        log(f"!! {source.name} has no pooler: it is newly initialized and trained with the head")
    if missing := getattr(model, "fresh_base", None):
        log(f"!! {source.name} lacks {len(missing)} base weights, such as {missing[0]}: they are newly initialized")


def build(
    config: RunConfig, model_source: Source, names: list[str] | None, rows: Dataset
) -> tuple[TrainingBundle, Encoded]:
    """Load tokenizer and model, apply the method, and return them with the encoded training examples.

    The seed is set before the model is loaded, since head and adapter are initialized from it.
    """
    from transformers import set_seed

    tokenizer = load_tokenizer(tokenizer_source(config.vocab, model_source))
    task_format = format_for(config, names, tokenizer)
    encoded = task_format.encode_training(rows, config.seed)
    set_seed(config.seed)
    model = load_model(config.model, model_source, tokenizer, head_kind(config), names, config.method.quantization)
    _warn_new_weights(model, model_source, config.task)
    if config.task.packing and "position_ids" not in inspect.signature(model.forward).parameters:
        raise UserError(
            f"{model_source.name} takes no position_ids, which separate packed documents; set task.packing=false"
        )
    new_rows = grow(model, Path(config.vocab)) if config.vocab else []
    method = instantiate_method({**config.method.config, **_schedule(config, len(encoded.lengths))})
    if hasattr(method, "revision") and model_source.kind in ("hub", "cache"):
        method.revision = model_source.revision
    checkpointing = bool(config.train.get("activation_checkpointing"))
    model = wrap(model, method, config.task.kind, config.method.quantization is not None, checkpointing, new_rows)
    if checkpointing and hasattr(model, "enable_input_require_grads"):
        model.enable_input_require_grads()  # frozen embeddings would cut the graph at the first checkpoint
    schedule = method.unfreezing(model) if isinstance(method, Gradual) else None
    return TrainingBundle(model, tokenizer, add_shots(config, task_format, rows, model), schedule), encoded


def _schedule(config: RunConfig, inputs: int) -> dict[str, int]:
    """Return AdaLoRA's steps (Zhang et al. 2023, section 3.3), except those that the user sets.

    Args:
        inputs: how many there are to train on; a long example is several.
    """
    if not config.method.traits.scheduled:
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        arguments = training_arguments(config.train, config.seed, Path(scratch), select_best=False, save=False)
    steps = steps_of(arguments, inputs)
    settings = {"total_step": steps, "tinit": steps // 10, "tfinal": steps // 3}
    return {name: value for name, value in settings.items() if name not in config.method.config}


def steps_of(arguments: Any, inputs: int) -> int:
    """Return the number of optimizer steps of training on this number of inputs."""
    if arguments.max_steps > 0:
        return int(arguments.max_steps)
    batches = math.ceil(inputs / (arguments.train_batch_size * arguments.world_size))
    return math.ceil(math.ceil(batches / arguments.gradient_accumulation_steps) * arguments.num_train_epochs)


def instantiate_method(settings: dict[str, Any]) -> Any:
    """Instantiate the method's config.

    Raises:
        UserError: its settings are invalid.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        # PEFT cannot save a config that holds omegaconf containers
        return instantiate(settings, _convert_="all")
    except InstantiationException as error:
        raise UserError(f"method.config: {error.__cause__ or error}") from error


def split_holdout(rows: TaskDataset, task: TaskConfig, holdout: float) -> tuple[Any, Any]:
    """Split examples off the training split, on which the best epoch is chosen; the same for every seed."""
    reader = example_reader(task)
    rest, held_out = reader.split(rows.splits[str(task.splits["train"])], holdout)
    return rest, reader.evaluation_examples(held_out)
