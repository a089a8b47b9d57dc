"""Turn a run's choices into loaded parts: rows, tokenizer, model, method."""

from __future__ import annotations

import inspect
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from peftkit.config import ModelConfig, RunConfig, TaskConfig, UserError, generates_text
from peftkit.config.source import Source, fingerprint
from peftkit.data.datasets import TaskDataset, split_off
from peftkit.data.formats import Encoded, Format, InstructionFormat, LanguageModelingFormat
from peftkit.data.passages import split_passages
from peftkit.methods import Gradual, Unfreezing, wrap
from peftkit.models.checkpoints import locate
from peftkit.models.embedding_rows import FACTS, WEIGHTS, grow, read_vocabulary
from peftkit.models.load import load_model, load_tokenizer, pooling_of
from peftkit.models.pooling import Vectors
from peftkit.models.sentence import vector_pooling
from peftkit.pipeline.prompting import FOLDER, add_shots, format_for, head_kind
from peftkit.results.console import log
from peftkit.training import (
    ContrastiveLoss,
    Distillation,
    ScoringTrainer,
    TrainerSetup,
    dpo_trainer,
    make_trainer,
    precision_of,
    sft_obstacle,
    sft_trainer,
    training_arguments,
)
from peftkit.training.outputs import OutputReader

VOCABULARY = (FACTS, WEIGHTS, "tokenizer.json")  # what decides of a folder of job=extend


@dataclass
class TrainingBundle:
    """A model that is ready to train, and what its batches need."""

    model: Any
    tokenizer: Any
    format: Format  # how rows become its batches, and its scores answers
    schedule: Unfreezing | None = None  # where weights join the training one after the other


def find_model(model: ModelConfig, source: str) -> Source:
    """Decide where the checkpoint comes from; pretrain the offline stand-in if it was never used before."""
    found = locate(model, source)
    if found.kind == "offline" and found.name != "minilm":
        from peftkit.jobs.pretrain import ensure_mini

        folder = ensure_mini(found.name)
        found = replace(found, revision=folder.name.removeprefix(f"{found.name}-"), folder=str(folder))
    return found


def warn_substitutions(model: Source, data: Source) -> list[str]:
    """Say loudly what stands in for what, and return the sentences."""
    sentences = [s for s in (model.substitution("MODEL"), data.substitution("DATA")) if s]
    for sentence in sentences:
        log(f"!! {sentence}")
    return sentences


def describe_sources(run: RunConfig, model: Source, data: Source) -> dict[str, Any]:
    """Return where both came from, as the result records it: without the folders of this machine."""
    pooling = (vector_pooling if run.task.kind == "retrieval" else pooling_of)(run.model, model)
    entries = {"model": {**asdict(model), "pooling": pooling}, "data": asdict(data)}
    for entry in entries.values():
        del entry["folder"]
    return entries


def _tell_fresh(model: Any, source: Source, task: TaskConfig) -> None:
    """Say loudly what a checkpoint lacks that it would be expected to have."""
    if getattr(model, "fresh_head", None) and task.kind == "language_modeling":
        log(f"!! {source.name} comes without its masked language model head: one begins at random, and trains")
    elif any(name.startswith(f"{model.base_model_prefix}.") for name in getattr(model, "fresh_head", [])):
        log(f"!! {source.name} comes without a pooler: one begins at random, and trains with the head")
    if lacks := getattr(model, "fresh_base", None):
        log(f"!! {source.name} lacks {len(lacks)} weights of its base, {lacks[0]} among them: they begin at random")


def build(
    run: RunConfig, model_source: Source, names: list[str] | None, rows: Dataset
) -> tuple[TrainingBundle, Encoded]:
    """Load tokenizer and model, and apply the method; return them, and the rows that it will train on, encoded.

    The seed comes before the model: head and adapter are drawn from it.
    """
    from transformers import set_seed

    tokenizer = load_tokenizer(tokenizer_source(run.vocab, model_source))
    task_format = format_for(run, names, tokenizer)
    if isinstance(task_format, LanguageModelingFormat):
        encoded = task_format.blocks(rows, run.seed)
    elif isinstance(task_format, InstructionFormat) and run.task.packing:
        encoded = task_format.blocks(rows)
    else:
        encoded = task_format.encode(rows)
    set_seed(run.seed)
    model = load_model(run.model, model_source, tokenizer, head_kind(run), names, run.method.quantization)
    _tell_fresh(model, model_source, run.task)
    if run.task.packing and "position_ids" not in inspect.signature(model.forward).parameters:
        raise UserError(
            f"{model_source.name} reads no positions, by which packed documents are kept apart; say task.packing=false"
        )
    new_rows = grow(model, Path(run.vocab)) if run.vocab else []
    config = instantiate_method({**run.method.config, **_schedule(run, len(encoded.lengths))})
    if hasattr(config, "revision") and model_source.kind in ("hub", "cache"):
        config.revision = model_source.revision
    checkpointing = bool(run.train.get("activation_checkpointing"))
    model = wrap(model, config, run.task.kind, run.method.quantization is not None, checkpointing, new_rows)
    if checkpointing and hasattr(model, "enable_input_require_grads"):
        model.enable_input_require_grads()  # frozen embeddings would cut the graph at the first checkpoint
    schedule = config.unfreezing(model) if isinstance(config, Gradual) else None
    return TrainingBundle(model, tokenizer, add_shots(run, task_format, rows, model), schedule), encoded


def tokenizer_source(vocab: str | None, model: Source) -> Source:
    """Return where the tokenizer comes from: the base, or a folder that job=extend made of this very base.

    Raises:
        UserError: it was made of another.
    """
    if vocab is None:
        return model
    base = read_vocabulary(Path(vocab))
    is_same = base.revision == model.revision and (base.base == model.name or model.kind == "folder")
    if not is_same:
        raise UserError(
            f"vocab={vocab} was made for {base.base} ({base.revision}), this is {model.name} ({model.revision}); "
            "make one for this model with job=extend"
        )
    return Source("folder", vocab, folder=vocab)


def _schedule(run: RunConfig, inputs: int) -> dict[str, int]:
    """Return AdaLoRA's steps (Zhang et al. 2023, section 3.3), as far as the user does not set them.

    A long example is several inputs.
    """
    if not run.method.traits.scheduled:
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        arguments = training_arguments(run.train, run.seed, Path(scratch), select_best=False, save=False)
    steps = steps_of(arguments, inputs)
    settings = {"total_step": steps, "tinit": steps // 10, "tfinal": steps // 3}
    return {name: value for name, value in settings.items() if name not in run.method.config}


def steps_of(arguments: Any, inputs: int) -> int:
    """Return how many optimizer steps a training on so many inputs takes."""
    if arguments.max_steps > 0:
        return int(arguments.max_steps)
    batches = math.ceil(inputs / (arguments.train_batch_size * arguments.world_size))
    return math.ceil(math.ceil(batches / arguments.gradient_accumulation_steps) * arguments.num_train_epochs)


def instantiate_method(config: dict[str, Any]) -> Any:
    """Instantiate the method's config.

    Raises:
        UserError: it refuses its own settings.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        # PEFT cannot save a config that holds omegaconf containers
        return instantiate(config, _convert_="all")
    except InstantiationException as error:
        raise UserError(f"method.config: {error.__cause__ or error}") from error


def split_holdout(rows: TaskDataset, task: TaskConfig, holdout: float) -> tuple[Any, Any]:
    """Split rows off train to choose the best epoch on; the same rows for every seed."""
    rest, held_out = split_off(task, rows.splits[task.splits["train"]], holdout)
    return rest, split_passages(held_out, task) if task.kind == "language_modeling" else held_out


def execution_setup(run: RunConfig) -> dict[str, Any]:
    """Return what else than settings and sources determines a result: processes a step, precision."""
    found: dict[str, Any] = {"processes": int(os.environ.get("WORLD_SIZE", "1")), "precision": precision_of(run.train)}
    if run.distill.teacher is not None:
        folders = (Path(run.distill.teacher) / name for name in ("adapter", "model", FOLDER))
        kept = next((folder for folder in folders if folder.is_dir()), None)
        if kept is None:
            raise UserError(
                f"distill.teacher={run.distill.teacher} keeps no model, as a trial does; name a run without trial=true"
            )
        found["teacher"] = fingerprint(kept, (".safetensors", "prompt.json"))
    return found if run.vocab is None else {**found, "vocab": fingerprint(Path(run.vocab), VOCABULARY)}


def output_reader(parts: TrainingBundle) -> OutputReader | Vectors:
    """Return what reads a model's scores, of which vectors are one kind."""
    if parts.format.output_kind == "vectors":
        return Vectors(parts.model.config.vector_pooling)
    return OutputReader(parts.format.output_kind, parts.format.verbalizer_ids)


def own_loss(run: RunConfig, parts: TrainingBundle) -> ContrastiveLoss | Distillation | None:
    """Return what training lowers where it is not the model's own loss.

    Raises:
        UserError: a width is none of the model's.
    """
    if run.distill.teacher is not None and not generates_text(run.task):
        return Distillation(run.distill.temperature, run.distill.alpha)
    reads, task = output_reader(parts), parts.format.task
    if not isinstance(reads, Vectors):
        return None
    assert task.scale is not None  # what the schema asks of the kind
    width, widths = parts.model.config.hidden_size, task.matryoshka_dims or []
    if widths and max(widths) > width:
        raise UserError(
            f"task.matryoshka_dims={widths} goes beyond the model's vectors of {width}; say task.matryoshka_dims=[{width // 4}]"
        )
    return ContrastiveLoss(reads, task.scale, sorted({*widths, width}) if widths else [])


def trainer_factory(run: RunConfig, parts: TrainingBundle, arguments: Any) -> Callable[..., ScoringTrainer]:
    """Return what makes the trainer: TRL's for preferences, and for instructions to a decoder where its loss fits."""
    task, trains = run.task, any(weight.requires_grad for weight in parts.model.parameters())
    if task.kind == "preferences":
        assert task.beta is not None and task.loss_type is not None  # what the schema asks of the kind
        return dpo_trainer(parts.tokenizer, task.beta, task.loss_type, task.label_smoothing or 0.0)
    if not isinstance(parts.format, InstructionFormat) or not parts.format.is_decoder or not trains:
        return ScoringTrainer
    if (reason := sft_obstacle(parts.model, arguments)) is not None:
        log(f"   trained without TRL: {reason}")
    return partial(sft_trainer, parts.tokenizer)


@contextmanager
def predictor(run: RunConfig, parts: TrainingBundle) -> Iterator[ScoringTrainer]:
    """Yield a trainer that only predicts, in the precision and batches of the run."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = training_arguments(run.train, run.seed, Path(scratch), select_best=False, save=False)
        yield make_trainer(TrainerSetup(parts.model, arguments, parts.format.collator(), output_reader(parts)))


def device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()} x {torch.cuda.device_count()}"
    cpu = torch.cpu.get_capabilities().get("cpu_name") or "unknown"
    return f"cpu: {cpu}, {os.cpu_count()} cores"
