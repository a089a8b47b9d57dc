"""The examples of a run: scored by a reference for preferences, encoded for the model, and counted."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from peftkit import training
from peftkit.config import RunConfig, generates_text, is_prompted
from peftkit.config.console import log
from peftkit.config.progress import stage
from peftkit.config.source import Source
from peftkit.config.suggestions import listed
from peftkit.data.class_weights import class_weights
from peftkit.data.datasets import CALIBRATION_SPLIT, SEARCH_SPLIT, TaskDataset
from peftkit.data.domains import OTHERS_SPLIT, UNLABELED_SPLIT, training_examples
from peftkit.data.formats import Encoded, Format, format_of
from peftkit.data.formats.preferences import REFERENCE_COLUMNS
from peftkit.data.unknown_tokens import count_unknown_tokens
from peftkit.models.load import load_model
from peftkit.pipeline.build import TrainingBundle, build, split_holdout, warn_unknown_tokens
from peftkit.pipeline.encoding import encode
from peftkit.pipeline.evaluate import evaluate_splits, predictor
from peftkit.pipeline.sources import run_tokenizer
from peftkit.pipeline.teacher import add_teacher_scores, teacher_answers

TRAINING_EXAMPLES, HOLDOUT_EXAMPLES = "trained on", "chosen on"  # names of examples that are not a split of the data


@dataclass
class RunContext:
    """A run: its config, model source, data and folder, and the result that the stages fill."""

    config: RunConfig
    model_source: Source
    dataset: TaskDataset
    folder: Path
    result: dict[str, Any]
    check_folder: Callable[[], None] = lambda: None  # raises an error if the folder was replaced
    parts: "list[RunContext]" = field(default_factory=list)  # of several tasks: the run of each, in a folder here

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


@dataclass(frozen=True)
class Reference:
    """Log-likelihoods (pairs, 2) of chosen and rejected answers, by split; empty for other kinds of task."""

    likelihoods: dict[str, np.ndarray] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)

    def add_likelihoods(self, name: str, encoded: Encoded) -> Encoded:
        """Return encoded examples with the log-likelihoods of their split."""
        inputs, columns = encoded.inputs, self.likelihoods[name].T if name in self.likelihoods else ()
        for column, values in zip(REFERENCE_COLUMNS, columns, strict=False):
            inputs = inputs.add_column(column, values.tolist())
        return replace(encoded, inputs=inputs)


@dataclass(frozen=True)
class EncodedSplits:
    """The encoded examples of a run. `holdout` is scored after each epoch, `calibration` after training."""

    train: Encoded
    validation: dict[str, Encoded]
    holdout: Encoded | None
    costs: dict[str, float]  # of the reference
    calibration: Encoded | None = None
    others: Encoded | None = None  # of the domains that are not scored


def build_and_encode(context: RunContext) -> tuple[TrainingBundle, EncodedSplits]:
    """Build the model with its method, encode the examples of every split for it, and record the counts under `audit`.

    A reference scores the examples, or a teacher generates answers, before the model is loaded, so that only one model
    is in memory.
    """
    config, data, audit = context.config, context.dataset, context.result["audit"]
    trained_on, has_teacher = config.task.splits["train"], config.distill.teacher is not None
    examples, tables = data.splits[trained_on], {name: data.splits[name] for name in config.task.splits["validation"]}
    tables |= {name: data.splits[name] for name in (CALIBRATION_SPLIT, OTHERS_SPLIT) if name in data.splits}
    if config.early_stopping.patience is not None:
        examples, tables[HOLDOUT_EXAMPLES] = split_holdout(data, config.task, config.early_stopping.holdout)
    requested = len(examples)
    reference = score_reference(config, context.model_source, {**tables, TRAINING_EXAMPLES: examples})
    if has_teacher and generates_text(config.task):
        examples, audit["taught"] = teacher_answers(config, examples, context.folder)
    examples = training_examples(examples, data.splits)
    bundle, train = build(config, context.model_source, data.label_names, examples)
    train = reference.add_likelihoods(TRAINING_EXAMPLES, train)
    if has_teacher and not generates_text(config.task):
        train = add_teacher_scores(config, train, examples, data.label_names)
    with stage("tokenizing", sum(map(len, tables.values()))):
        encoded = {
            name: reference.add_likelihoods(name, encode(bundle.format, table)) for name, table in tables.items()
        }
    audit |= _counts(data, bundle, {trained_on: train, **encoded})
    if bundle.start is not None:
        audit["start"] = asdict(bundle.start)
    counts = count_unknown_tokens(bundle.format, train)  # `build` warned about these
    audit["unknown_tokens"] = {} if counts is None else {trained_on: counts.share}
    audit["unknown_tokens"] |= warn_unknown_tokens(bundle.format, context.model_source, encoded)
    audit["rows"] |= {name: len(data.splits[name]) for name in (UNLABELED_SPLIT,) if name in data.splits}
    audit["rows"][trained_on] = requested  # before a teacher drops or adds any
    if (weights := class_weights(config.task, data.label_names, train.labels)) is not None:
        audit["class_weights"] = weights
        log(f"   class weights: {listed(f'{name} {weight:.3g}' for name, weight in weights.items())}")
    holdout = encoded.pop(HOLDOUT_EXAMPLES, encoded[SEARCH_SPLIT] if config.trial else None)
    if is_prompted(config):
        audit["shots"] = _count_shots(config, bundle.format, encoded)
    if bundle.steered_by is not None:
        audit["steering"] = bundle.steered_by
    calibration = encoded.pop(CALIBRATION_SPLIT, None)
    others = encoded.pop(OTHERS_SPLIT, None)
    train.positions.clear()  # only predictions need them, and training would keep them in memory
    return bundle, EncodedSplits(train, encoded, holdout, reference.costs, calibration, others)


def score_reference(
    config: RunConfig, source: Source, tables: Mapping[str, Dataset], tokenizer_source: Source | None = None
) -> Reference:
    """Score pairs of answers with the base of a run, before its method is applied, in the precision of the run.

    The base is in memory only for this pass. A disabled adapter would give the same scores, but full fine-tuning
    overwrites the base. Only preferences have a reference; for other kinds of task nothing is loaded.

    Args:
        tokenizer_source: by default the base.
    """
    if config.task.kind != "preferences":
        return Reference()
    log(f"   scoring every pair with the reference, {source.name}")
    tokenizer = run_tokenizer(config, tokenizer_source or source, source)
    task_format = format_of(config.task, config.model.family, None, tokenizer)
    model: Any = load_model(config.model, source, tokenizer, config.task.kind, None, config.method.quantization).eval()
    if config.method.quantization is None and torch.accelerator.is_available():  # a quantized base is already there
        model.to(torch.accelerator.current_accelerator())
    started = time.perf_counter()
    found = {name: _likelihoods(config, model, task_format, table) for name, table in tables.items()}
    return Reference(found, {"reference_seconds": time.perf_counter() - started})


@torch.no_grad()
def _likelihoods(config: RunConfig, model: Any, task_format: Format, table: Dataset) -> np.ndarray:
    """Return (pairs, 2), in the batches of `training.predict_scores`, so that an untrained adapter gives the same.

    HF's Trainer does not accept a quantized base without an adapter.
    """
    encoded = task_format.encode(table)
    found: np.ndarray = np.zeros((len(encoded.lengths), 2), dtype=np.float32)
    order = np.argsort(-np.asarray(encoded.lengths), kind="stable")
    reader, size = training.OutputReader("preferences"), config.train["per_device_eval_batch_size"]
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training.precision_of(config.train))
    for first in range(0, len(order), size):
        indices = order[first : first + size]
        batch = task_format.collator()([encoded.inputs[int(index)] for index in indices])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        with torch.autocast(model.device.type, dtype, enabled=dtype is not None):
            found[indices] = reader(model, batch).float().cpu().numpy()
    return found


def score_splits(
    config: RunConfig, bundle: TrainingBundle, data: TaskDataset, file: Path, reference: Reference | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Encode and score every split of data with a loaded run, and return scores and costs as `evaluate_splits` does."""
    add_likelihoods = (reference or Reference()).add_likelihoods
    splits = {name: add_likelihoods(name, bundle.format.encode(table)) for name, table in data.splits.items()}
    return evaluate_splits(config, bundle, predictor(config, bundle), splits, data, file)


def _counts(data: TaskDataset, bundle: TrainingBundle, splits: dict[str, Encoded]) -> dict[str, Any]:
    """Count examples, truncated and dropped examples and labels of each split; name newly initialized weights."""
    return {
        "fresh": [*getattr(bundle.model, "new_head", ()), *getattr(bundle.model, "new_base_weights", ())],
        "label_names": data.label_names,
        "rows": {name: len(encoded.has_label) for name, encoded in splits.items()},
        "truncated": {name: encoded.truncated for name, encoded in splits.items()},
        "dropped": data.dropped,
        "label_counts": {name: bundle.format.label_counts(encoded) for name, encoded in splits.items()},
    }


def _count_shots(config: RunConfig, task_format: Format, splits: dict[str, Encoded]) -> dict[str, Any]:
    """Return the number of few-shot examples requested, drawn, and omitted because the prompt was too long."""
    drawn = len(task_format.shots)
    for name, encoded in splits.items():
        if encoded.dropped_shots:
            count = len(encoded.has_label)
            log(
                f"   {encoded.dropped_shots} of {drawn * count} few-shot examples did not fit into the {count} prompts "
                f"of {name}"
            )
    return {
        "requested": int(config.method.config.get("shots") or 0),
        "drawn": drawn,
        "left_out": {name: encoded.dropped_shots for name, encoded in splits.items()},
    }
