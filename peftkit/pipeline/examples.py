"""The examples of a run: loaded, encoded beside its model, and counted."""

from __future__ import annotations

from typing import Any

from peftkit.config import generates_text, is_prompted
from peftkit.data.datasets import SEARCH_SPLIT
from peftkit.data.formats import Encoded
from peftkit.pipeline.build import TrainingBundle, build, split_holdout
from peftkit.pipeline.context import EncodedSplits, Examples, RunContext
from peftkit.pipeline.language_model import plain_model
from peftkit.pipeline.prompting import count_shots
from peftkit.pipeline.reference import score_reference
from peftkit.pipeline.teacher import add_teacher_scores, teacher_answers

TRAINED, CHOSEN_ON = "trained on", "chosen on"  # names of examples that are no split of the data


def load_examples(context: RunContext) -> Examples:
    """Return the examples to train on and to score, and what the reference and the teacher add to them."""
    config, splits = context.config, context.dataset.splits
    train, holdout = splits[config.task.splits["train"]], None
    if config.early_stopping.patience is not None:
        train, holdout = split_holdout(context.dataset, config.task, config.early_stopping.holdout)
    validation = {name: splits[name] for name in config.task.splits["validation"]}
    # before the model to train is loaded, so that one model at a time is in memory
    reference = score_reference(config, context.model_source, {**validation, TRAINED: train, CHOSEN_ON: holdout})
    requested = len(train)
    if config.distill.teacher is not None and generates_text(config.task):
        train, context.result["audit"]["taught"] = teacher_answers(config, train, context.folder)
    return Examples(train, requested, validation, holdout, reference)


def build_and_encode(context: RunContext, examples: Examples) -> tuple[TrainingBundle, EncodedSplits]:
    """Build the model with its method, encode every split for it, and record the counts under `audit`."""
    config, names, reference = context.config, context.dataset.label_names, examples.reference
    bundle, train = build(config, context.model_source, names, examples.train)
    train = reference.beside(TRAINED, train)
    if config.distill.teacher is not None and not generates_text(config.task):
        train = add_teacher_scores(config, train, examples.train, names)
    holdout = None
    if examples.holdout is not None:
        holdout = reference.beside(CHOSEN_ON, bundle.format.encode(examples.holdout))
    validation = {
        name: reference.beside(name, bundle.format.encode(table)) for name, table in examples.validation.items()
    }
    splits = {config.task.splits["train"]: train, **validation}
    context.result["audit"] |= audit(context, bundle, splits if holdout is None else {**splits, CHOSEN_ON: holdout})
    context.result["audit"]["rows"][config.task.splits["train"]] = examples.requested
    if is_prompted(config):
        context.result["audit"]["shots"] = count_shots(config, bundle.format, validation)
    train.positions.clear()  # only predictions need them, and training would keep them in memory
    if config.trial and holdout is None:
        holdout = validation[SEARCH_SPLIT]
    return bundle, EncodedSplits(train, validation, holdout)


def audit(context: RunContext, bundle: TrainingBundle, splits: dict[str, Encoded]) -> dict[str, Any]:
    """Count examples, truncated and dropped examples and labels of each split; name newly initialized weights."""
    model, dataset = plain_model(bundle.model), context.dataset
    return {
        "fresh": [*getattr(model, "fresh_head", ()), *getattr(model, "fresh_base", ())],
        "label_names": dataset.label_names,
        "rows": {name: len(encoded.has_label) for name, encoded in splits.items()},
        "truncated": {name: encoded.truncated for name, encoded in splits.items()},
        "dropped": dataset.dropped,
        "label_counts": {name: bundle.format.label_counts(encoded) for name, encoded in splits.items()},
    }
