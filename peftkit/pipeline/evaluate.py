"""Evaluation of a model: its predictions on encoded examples, and their scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from peftkit import training
from peftkit.config import RunConfig
from peftkit.data.datasets import TaskDataset
from peftkit.data.formats import Encoded, Predictions
from peftkit.metrics import score
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.reference import Reference
from peftkit.pipeline.trainers import predictor
from peftkit.results import run_folder
from peftkit.results.console import is_main_process


def evaluate_splits(
    config: RunConfig, bundle: TrainingBundle, trainer: Any, splits: dict[str, Encoded], rows: TaskDataset, file: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score the labelled examples of each validation split, write all predictions, and return scores and costs.

    A split without any label has no score; a hidden label is null in the file.
    """
    scores: dict[str, Any] = {}
    columns: dict[str, list] = {"id": [], "split": [], "label": [], "prediction": [], "scores": []}
    seconds, peaks = 0.0, [0]
    for name, encoded in splits.items():
        answers, costs = answer(bundle, trainer, encoded)
        seconds += costs["seconds"]
        peaks.append(costs["peak_bytes"] or 0)
        suffix = name.removeprefix("validation") if len(splits) > 1 else ""
        if encoded.has_label.any():
            scores |= _score(config, bundle, answers, encoded, suffix)
        columns["id"] += list(rows.splits[name]["id"])
        columns["split"] += [name] * len(answers.predictions)
        columns["label"] += [
            label if known else None for label, known in zip(_plain(encoded.labels), encoded.has_label, strict=True)
        ]
        columns["prediction"] += _plain(answers.predictions)
        columns["scores"] += [_plain(row.astype(float)) or None for row in answers.scores]
    if is_main_process():
        run_folder.write_predictions(file, columns)
    return scores, {"eval_seconds": seconds, "eval_peak_bytes": max(peaks) or None}


def score_splits(
    config: RunConfig, bundle: TrainingBundle, data: TaskDataset, file: Path, reference: Reference | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Encode and score every split of data with a loaded run, and return scores and costs as `evaluate_splits` does."""
    splits = {name: bundle.format.encode(table) for name, table in data.splits.items()}
    if reference is not None:
        splits = {name: reference.beside(name, encoded) for name, encoded in splits.items()}
    with predictor(config, bundle) as trainer:
        return evaluate_splits(config, bundle, trainer, splits, data, file)


def answer(bundle: TrainingBundle, trainer: Any, encoded: Encoded) -> tuple[Predictions, dict[str, Any]]:
    """Return a model's predictions for encoded examples, with the seconds and the peak in bytes that they took."""
    found = training.predict(trainer, encoded.inputs, encoded.lengths)
    scores, texts, seconds = bundle.format.unpad(found.scores, encoded), None, found.seconds
    has_ended: list[bool] | None = None
    if bundle.format.max_new_tokens is not None:
        prompts, ids = [prompt for _, prompt in encoded.positions], bundle.tokenizer
        written, more = training.generate(
            trainer, prompts, ids.pad_token_id, bundle.format.max_new_tokens, ids.eos_token_id
        )
        texts = [text.lstrip() for text in ids.batch_decode(written, skip_special_tokens=True)]
        stop = bundle.format.stop_text if getattr(bundle.format, "shots", ()) else ""
        has_ended = [
            ids.eos_token_id in row or bool(stop and stop in text) for row, text in zip(written, texts, strict=True)
        ]
        texts = [text.strip() for text in texts]
        seconds += more
    answers = replace(bundle.format.decode(scores, encoded, texts), has_ended=has_ended)
    if has_ended is not None:
        answers = bundle.format.check_answers(answers, has_ended, encoded)
    return answers, {"seconds": seconds, "peak_bytes": found.peak_bytes}


def _score(
    config: RunConfig, bundle: TrainingBundle, answers: Predictions, encoded: Encoded, suffix: str = ""
) -> dict[str, Any]:
    """Score the examples whose label is known."""
    known = np.flatnonzero(encoded.has_label)
    predictions = [answers.predictions[row] for row in known]
    labels = [encoded.labels[row] for row in known]
    likelihoods = None
    if answers.likelihoods is not None:
        nats, tokens = answers.likelihoods
        likelihoods = (nats[known], tokens[known])
    in_form = None if answers.follows_format is None else answers.follows_format[known]
    return score(list(config.task.metrics), predictions, labels, suffix, bundle.format.names, likelihoods, in_form)


def holdout_score(config: RunConfig, bundle: TrainingBundle, scores: np.ndarray, held: Encoded) -> float:
    """Return the score by which the best epoch is chosen, larger is better: the mean of the task's metrics.

    For a model that generates text it is the log-likelihood of a label's token, for preferences the mean log sigmoid
    of the margins.
    """
    answers = bundle.format.decode(bundle.format.unpad(scores, held), held)
    if bundle.format.output_kind == "preferences":
        return -float(np.logaddexp(0, -np.asarray(answers.predictions)).mean())
    if answers.likelihoods is not None:
        nats, tokens = answers.likelihoods
        return -float(nats.sum() / tokens.sum())
    found = _score(config, bundle, answers, held)
    return float(np.mean([e["value"] if e["higher_is_better"] else -e["value"] for e in found.values()]))


def _plain(values: Any) -> Any:
    """Return a numpy array as lists of Python numbers."""
    return values.tolist() if isinstance(values, np.ndarray) else values
