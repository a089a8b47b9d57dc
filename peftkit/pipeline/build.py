"""Build a run: load its tokenizer and model, apply its method, and encode its training examples."""

import inspect
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed

from peftkit.config import RunConfig, TaskConfig, UserError, is_prompted, kind_of, refusal, refuse
from peftkit.config.console import log
from peftkit.config.decoding import MAX_NEW_TOKENS
from peftkit.config.kinds import SEQ2SEQ
from peftkit.config.own_code import instantiate
from peftkit.config.progress import stage
from peftkit.config.source import Source
from peftkit.data.columns import text_columns
from peftkit.data.datasets import TaskDataset, example_reader
from peftkit.data.formats import Encoded, Format, format_of
from peftkit.data.formats.prompted import PromptedFormat, sample_balanced
from peftkit.data.formats.text_generation import TextGenerationFormat
from peftkit.data.unknown_tokens import count_unknown_tokens
from peftkit.methods import Gradual, Steering, SteeringVector, Unfreezing, apply_method
from peftkit.models.bags import bag_of_words, mean_embedding, word_tokenizer
from peftkit.models.embedding_rows import add_new_rows
from peftkit.models.load import load_model, size_head
from peftkit.models.tokenizer import decoder_positions
from peftkit.pipeline.domains import with_domain_ids
from peftkit.pipeline.encoding import encode_training
from peftkit.pipeline.sources import prompt_positions, run_tokenizer, tokenizer_source
from peftkit.pipeline.start import StartRecord, open_start
from peftkit.pipeline.steering import steering_vector
from peftkit.training import training_arguments


@dataclass
class TrainingBundle:
    """A model that is ready to train, with its tokenizer and the format of its examples."""

    model: Any
    tokenizer: Any
    format: Format  # encodes examples, and decodes scores to predictions
    schedule: Unfreezing | None = None  # of gradual unfreezing
    start: StartRecord | None = None  # what the weights were before training, of `start=`
    steering: SteeringVector | None = None  # that is added to the model's states
    steered_by: dict[str, Any] | None = None  # what that was computed from


def build(
    config: RunConfig, model_source: Source, names: list[str] | None, examples: Dataset
) -> tuple[TrainingBundle, Encoded]:
    """Load tokenizer and model, apply the method, and return them with the encoded training examples.

    The seed is set before the model is loaded, since head and adapter are initialized from it.
    """
    start = open_start(config, model_source)
    tokenizer = _load_tokenizer(config, model_source, examples)
    for sentence in tokenizer.adjustments:
        log(f"!! {model_source.name}: {sentence}")
    task_format = format_for(config, names, tokenizer)
    _log_max_length(config, task_format, model_source)
    _check_target_length(task_format, model_source)
    with stage("tokenizing", len(examples)):
        encoded = encode_training(task_format, examples, config.seed)
    encoded = with_domain_ids(config, encoded, examples)
    warn_unknown_tokens(task_format, model_source, {str(config.task.splits["train"]): encoded})
    set_seed(config.seed)
    model = _load_model(config, model_source, tokenizer, names)
    _warn_new_weights(model, model_source, config.task)
    if config.task.packing and "position_ids" not in inspect.signature(model.forward).parameters:
        wrong = f"{model_source.name} does not accept position_ids, which separate packed documents"
        raise UserError(refusal(wrong, "task.packing=false", verb="set"))
    new_rows = add_new_rows(model, Path(config.vocab)) if config.vocab else []
    method = instantiate_method({**config.method.config, **_schedule(config, len(encoded.lengths))})
    if hasattr(method, "revision") and model_source.kind in ("hub", "cache"):
        method.revision = model_source.revision
    checkpointing = bool(config.train.get("activation_checkpointing"))
    model = apply_method(
        model, method, config.task.kind, config.method.quantization is not None, checkpointing, new_rows
    )
    if not is_prompted(config) and config.method.traits.trains and not any(w.requires_grad for w in model.parameters()):
        raise UserError(f"method={config.method.name} has no weight to train with its method.config; use the defaults")
    if checkpointing and hasattr(model, "enable_input_require_grads"):
        model.enable_input_require_grads()  # frozen embeddings would end the graph at the first checkpoint
    if is_prompted(config):
        task_format = _add_shots(config, task_format, examples)
    record = None if start is None else start.load_into(model, config, names)
    schedule = method.unfreezing(model) if isinstance(method, Gradual) else None
    bundle = TrainingBundle(model, tokenizer, task_format, schedule, record)
    if isinstance(method, Steering):
        _steer(bundle, method, examples, config)
    return bundle, encoded


def _steer(bundle: TrainingBundle, method: Steering, examples: Dataset, config: RunConfig) -> None:
    """Add the vector of activation steering to the model's states; a strength of 0 leaves the model as it is."""
    assert isinstance(bundle.format, PromptedFormat)
    if config.method.quantization is None and torch.accelerator.is_available():  # a quantized base is already there
        bundle.model.to(torch.accelerator.current_accelerator())
    steering, record = steering_vector(bundle.model, bundle.format, examples, method, config.seed)
    bundle.steered_by = {**asdict(record), "strength": method.strength}
    if method.strength != 0:
        bundle.steering = steering
        steering.attach(bundle.model)


def _load_tokenizer(config: RunConfig, source: Source, examples: Dataset) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the checkpoint or of `vocab`, or one of the words of the training examples."""
    if not config.method.traits.reads_words:
        return run_tokenizer(config, tokenizer_source(config.vocab, source), source)  # type: ignore[no-any-return]
    texts = (text for column in text_columns(config.task) for text in examples[column][:])
    return word_tokenizer(texts, config.method.config.get("max_features"))


def _load_model(config: RunConfig, source: Source, tokenizer: Any, names: list[str] | None) -> Any:
    """Return the checkpoint with its head, only its input embeddings below a head, or a bag of words."""
    if config.method.traits.reads_words:
        return bag_of_words(tokenizer, lambda found: size_head(found, kind_of(config.task), names))
    model = load_model(config.model, source, tokenizer, head_kind(config), names, config.method.quantization)
    return mean_embedding(model) if config.method.traits.reads_embeddings else model


def format_for(
    config: RunConfig, names: list[str] | None, tokenizer: PreTrainedTokenizerBase, shots: tuple[str, ...] = ()
) -> Format:
    """Return the format of a run; for a prompted run with these few-shot examples."""
    if is_prompted(config) and kind_of(config.task).sequence_label:
        found: Format = PromptedFormat(
            config.task,
            tokenizer,
            config.model.family,
            names,
            calibrate=bool(config.method.config.get("calibrate")),
        )
    else:
        found = format_of(config.task, config.model.family, names, tokenizer)
    return replace(found, shots=shots) if is_prompted(config) else found


def head_kind(config: RunConfig) -> str:
    """Return the kind of task that selects the head; a prompted classifier has a language model head."""
    if not is_prompted(config) or not kind_of(config.task).sequence_label:
        return config.task.kind
    return "seq2seq" if config.model.family == "seq2seq" else "causal_lm"


def text_length(task_format: Format) -> int:
    """Return the number of tokens of a text that a model reads, besides those that a decoder generates."""
    return task_format.tokenizer.model_max_length - task_format.reserved


def warn_unknown_tokens(task_format: Format, source: Source, splits: dict[str, Encoded]) -> dict[str, float]:
    """Return the share of unknown tokens of each split, and warn where it is high."""
    shares = {}
    for name, encoded in splits.items():
        if (counts := count_unknown_tokens(task_format, encoded)) is None:
            continue
        shares[name] = counts.share
        if counts.is_high:
            log(
                f"!! {counts.unknown:,} of {counts.tokens:,} tokens of {name} ({counts.share:.0%}) are unknown to the "
                f"tokenizer of {source.name}, in {counts.mostly_unknown:,} of {counts.texts:,} texts over half; use a "
                "checkpoint whose tokenizer knows them"
            )
    return shares


def _log_max_length(config: RunConfig, task_format: Format, source: Source) -> None:
    """Log the number of tokens that are read where it is less than `task.max_length`."""
    limit, virtual_tokens = task_format.tokenizer.model_max_length, prompt_positions(config.method)
    room = text_length(task_format)
    answer = limit - room
    if 0 < room < config.task.max_length:
        less = [f"{virtual_tokens} virtual tokens"] if virtual_tokens else []
        less += [f"{answer} tokens of an answer"] if answer else []
        log(
            f"   task.max_length={config.task.max_length}: {source.name} reads {limit + virtual_tokens} tokens"
            + (f", with {' and '.join(less)}" if less else "")
            + f"; longer texts are truncated to {room}"
        )


def _check_target_length(task_format: Format, source: Source) -> None:
    """Refuse answers that are longer than the positions of a decoder with an encoder."""
    length = task_format.max_new_tokens
    key = "task.max_target_length" if length == task_format.task.target_length else MAX_NEW_TOKENS
    positions = decoder_positions(source) if length and task_format.architecture == SEQ2SEQ else None
    refuse(
        (
            positions is not None and length is not None and length > positions,
            refusal(
                f"{key}={length}: {source.name} generates {positions} tokens at most",
                f"{key}={positions}",
                verb="set",
            ),
        )
    )


def _warn_new_weights(model: Any, source: Source, task: TaskConfig) -> None:
    """Warn about newly initialized weights, which the checkpoint lacks."""
    head, base = getattr(model, "new_head", None) or [], getattr(model, "new_base_weights", None) or []
    if head and task.kind == "language_modeling":
        log(f"!! {source.name} has no masked language model head: it is newly initialized and trained")
    elif any(name.startswith(f"{model.base_model_prefix}.") for name in head):
        log(f"!! {source.name} has no pooler: it is newly initialized and trained with the head")
    if (outputs := getattr(model, "replaced_outputs", None)) is not None:
        needed = f"this task needs {model.config.num_labels}"
        log(f"!! the head of {source.name} has {outputs} outputs, {needed}: it is newly initialized")
    labels, names = getattr(model, "head_labels", None), [str(name) for name in model.config.id2label.values()]
    if labels is not None and labels != names:
        log(f"!! the head of {source.name} is trained further: {', '.join(labels)} become {', '.join(names)}")
    if base:
        log(f"!! {source.name} lacks {len(base)} base weights, such as {base[0]}: they are newly initialized")


def _schedule(config: RunConfig, inputs: int) -> dict[str, int]:
    """Return AdaLoRA's steps (Zhang et al. 2023, section 3.3), except those that the user sets.

    Args:
        inputs: number of training inputs; a long example has several.
    """
    if not config.method.traits.scheduled:
        return {}
    steps = optimizer_steps(training_arguments(config.train, config.seed), inputs)
    settings = {"total_step": steps, "tinit": steps // 10, "tfinal": steps // 3}
    return {name: value for name, value in settings.items() if name not in config.method.config}


def optimizer_steps(arguments: Any, inputs: int) -> int:
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
    try:
        return instantiate(settings)
    except UserError as error:
        raise UserError(f"method.config: {error}") from error


def _add_shots(config: RunConfig, task_format: Format, examples: Dataset) -> Format:
    """Return the format with few-shot examples of the training split, which depend only on the seed."""
    number = int(config.method.config.get("shots") or 0)
    assert isinstance(task_format, PromptedFormat | TextGenerationFormat)
    drawn = sample_balanced([task_format.shot_group(label) for label in examples["label"]], number, config.seed)
    if len(drawn) < number:
        log(f"   shots={number}, but only {len(drawn)} training examples are available")
    shots = tuple(task_format.render_shot(dict(examples[index])) for index in drawn)
    return format_for(config, task_format.names, task_format.tokenizer, shots)


def split_holdout(data: TaskDataset, task: TaskConfig, holdout: float) -> tuple[Any, Any]:
    """Hold out training examples, on which the best epoch is selected; the same for every seed."""
    reader = example_reader(task)
    rest, held_out = reader.split(data.splits[str(task.splits["train"])], holdout, "early stopping")
    return rest, reader.evaluation_examples(held_out)
