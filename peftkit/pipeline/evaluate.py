"""Predictions of a model on encoded examples, their scores, and the files that contain them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit import training
from peftkit.config import RunConfig, UserError, kind_of
from peftkit.config.console import is_main_process, log
from peftkit.config.endings import TABLES
from peftkit.config.files import ending_of, stem_of
from peftkit.config.suggestions import listed
from peftkit.data.columns import DOMAIN, SUFFIX, text_columns
from peftkit.data.datasets import TaskDataset
from peftkit.data.formats import Encoded, Format, Predictions
from peftkit.metrics import METRICS, score, split_suffix
from peftkit.metrics.calibration import probabilities
from peftkit.models.head_inputs import FeatureReader
from peftkit.models.pooling import TextEmbedder
from peftkit.pipeline.build import TrainingBundle
from peftkit.results import run_folder

RowPrediction = tuple[Any, list | None]  # as in a file: the prediction, and its scores


def output_reader(bundle: TrainingBundle) -> training.OutputReader | TextEmbedder:
    """Return the function that computes a model's scores, which may be embeddings."""
    if bundle.format.output_kind == "embeddings":
        return TextEmbedder(bundle.model.config.vector_pooling)
    return training.OutputReader(bundle.format.output_kind, bundle.format.verbalizer_ids)


def predictor(config: RunConfig, bundle: TrainingBundle) -> training.ScoringTrainer:
    """Return a trainer that only predicts, in the precision and batches of the run."""
    return training.ScoringTrainer(
        model=bundle.model,
        args=training.training_arguments(config.train, config.seed),
        data_collator=bundle.format.collator(),
        reader=output_reader(bundle),
    )


def evaluate_splits(
    config: RunConfig, bundle: TrainingBundle, trainer: Any, splits: dict[str, Encoded], data: TaskDataset, file: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score the labeled examples of each validation split, write all predictions, and return scores and costs.

    A split without labels has no score; a hidden label is null in the file.
    """
    scores: dict[str, Any] = {}
    parts: list[dict[str, list]] = []
    costs = []
    for name, encoded in splits.items():
        predictions, cost = predict_encoded(bundle, trainer, encoded)
        costs.append(cost)
        if encoded.has_label.any():
            _log_absent_classes(config, bundle, encoded, name)
            scores |= score_answers(config, bundle, predictions, encoded, split_suffix(name, splits))
        parts.append(_prediction_columns(bundle, data.splits[name], name, encoded, predictions))
    if is_main_process():
        columns = {name: [value for part in parts for value in part[name]] for name in parts[0]}
        run_folder.write_predictions(file, columns)
    return scores, {
        "eval_seconds": sum(cost["seconds"] for cost in costs),
        "eval_peak_bytes": max(cost["peak_bytes"] or 0 for cost in costs) or None,
    }


def _prediction_columns(
    bundle: TrainingBundle, table: Dataset, split: str, encoded: Encoded, answers: Predictions
) -> dict[str, list]:
    """Return the columns of predictions.parquet: those of `run_folder.PREDICTION_COLUMNS` that apply, and the texts."""
    recorded, has_label = bundle.format.recorded, encoded.has_label
    known = [label if is_known else None for label, is_known in zip(recorded(encoded.labels), has_label, strict=True)]
    columns = {
        "id": list(table["id"]),
        "split": [split] * len(known),
        "label": known,
        "prediction": recorded(answers.predictions),
        "scores": [_row(each.astype(float)) for each in answers.scores],
    }
    describe = bundle.format.describe
    if bundle.format.names is not None:
        pairs = zip(encoded.labels, has_label, strict=True)
        columns["label_name"] = [describe(label) if is_known else None for label, is_known in pairs]
        columns["prediction_name"] = [describe(each) for each in answers.predictions]
        if kind_of(bundle.format.task).has_sequence_head:
            several = kind_of(bundle.format.task).several_labels
            columns["probabilities"] = list(probabilities(np.stack(answers.scores), several_labels=several))
    if DOMAIN in table.column_names:
        columns["domain"] = list(table[DOMAIN])
    texts = [name for name in (*text_columns(bundle.format.task), "messages") if name in table.column_names]
    taken = run_folder.PREDICTION_COLUMNS
    return columns | {f"{name}{SUFFIX}" if name in taken else name: list(table[name]) for name in texts}


def predict_encoded(bundle: TrainingBundle, trainer: Any, encoded: Encoded) -> tuple[Predictions, dict[str, Any]]:
    """Return a model's predictions for encoded examples, with the seconds and the peak memory in bytes."""
    found = training.predict_scores(trainer, encoded.inputs, encoded.lengths)
    predictions, seconds = decode_scores(bundle, trainer, encoded, found.scores)
    return predictions, {"seconds": found.seconds + seconds, "peak_bytes": found.peak_bytes}


def decode_scores(
    bundle: TrainingBundle, trainer: Any, encoded: Encoded, scores: np.ndarray
) -> tuple[Predictions, float]:
    """Return the predictions of encoded examples from their scores, and the seconds in which texts were generated."""
    rows = bundle.format.unpad(scores, encoded)
    if bundle.format.max_new_tokens is None:
        return bundle.format.decode(rows, encoded), 0.0
    tokenizer, prompts = bundle.tokenizer, [prompt for _, prompt in encoded.positions]
    generated, seconds = training.generate_answers(trainer, prompts, decoding_of(bundle, trainer.args.seed))
    texts = [text.lstrip() for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]
    stop = bundle.format.stop_text if bundle.format.shots else ""
    has_ended = [
        tokenizer.eos_token_id in ids or bool(stop and stop in text) for ids, text in zip(generated, texts, strict=True)
    ]
    predictions = replace(bundle.format.decode(rows, encoded, [text.strip() for text in texts]), has_ended=has_ended)
    return bundle.format.check_answers(predictions, has_ended, encoded), seconds


def described(task_format: Format, found: Predictions) -> list[RowPrediction]:
    """Return the prediction of each example and its scores as files of predictions have them."""
    return [
        (task_format.describe(prediction), scores.astype(float).tolist() or None)
        for prediction, scores in zip(found.predictions, found.scores, strict=True)
    ]


def decoding_of(bundle: TrainingBundle, seed: int) -> training.Decoding:
    """Return how the texts of a task are generated."""
    tokenizer, task = bundle.tokenizer, bundle.format.task
    settings = task.generation or {}
    return training.Decoding(task.answer_length, tokenizer.pad_token_id, tokenizer.eos_token_id, settings, seed)


def scores_and_features(bundle: TrainingBundle, trainer: Any, encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores (examples, labels) of encoded examples, and what the head receives (examples, dim)."""
    read_scores = trainer.reader
    trainer.reader = reader = FeatureReader(bundle.model, read_scores)
    try:
        found = training.predict_scores(trainer, encoded.inputs, encoded.lengths).scores
    finally:
        reader.detach()
        trainer.reader = read_scores
    count = len(bundle.format.names or [0])
    return found[:, :count], found[:, count:]


def score_answers(
    config: RunConfig, bundle: TrainingBundle, answers: Predictions, encoded: Encoded, suffix: str = ""
) -> dict[str, Any]:
    """Score the examples whose label is known."""
    known = np.flatnonzero(encoded.has_label)
    predictions, labels = ([values[row] for row in known] for values in (answers.predictions, encoded.labels))
    nats, tokens = answers.likelihoods or (None, None)
    likelihoods = None if nats is None or tokens is None else (nats[known], tokens[known])
    others: dict[str, tuple[Any, Any]] = {"label_scores": (labels, [answers.scores[row] for row in known])}
    if answers.follows_format is not None:
        follows = answers.follows_format[known]
        others["format"] = np.ones_like(follows), follows
    return score(list(config.task.metrics), predictions, labels, suffix, bundle.format.names, likelihoods, others)


def _log_absent_classes(config: RunConfig, bundle: TrainingBundle, encoded: Encoded, split: str) -> None:
    """Log the classes without an example in a split, where a metric averages over all classes."""
    names, averages = bundle.format.names, ("f1", "macro_f1", "average_precision")
    averaged = [each for each in config.task.metrics if each in averages]
    if names is None or not averaged or (averaged == ["f1"] and len(names) == 2):
        return
    counts, other = (
        bundle.format.label_counts(encoded),
        "micro_f1" if kind_of(config.task).several_labels else "accuracy",
    )
    if absent := [name for name in names if counts[name] == 0]:
        log(
            f"!! {split} has no example of {listed(absent)}: their F1 counts as 0 in {averaged[-1]}; "
            f"add examples, or set task.metrics=[{other}]"
        )


def holdout_score(config: RunConfig, bundle: TrainingBundle, predictions: Any, held: Encoded) -> float:
    """Return the score that selects the best epoch, higher is better: the mean of the task's metrics.

    For a model that generates text it is the log-likelihood of a label's token, for preferences the mean log sigmoid
    of the margins. `predictions` are those of HF's Trainer.
    """
    answers = bundle.format.decode(bundle.format.unpad(training.scores_of(predictions), held), held)
    if bundle.format.output_kind == "preferences":
        return -float(np.logaddexp(0, -np.asarray(answers.predictions)).mean())
    if answers.likelihoods is not None:
        nats, tokens = answers.likelihoods
        return -float(nats.sum() / tokens.sum())
    found = score_answers(config, bundle, answers, held)
    found = {name: each for name, each in found.items() if name not in METRICS or not METRICS[name].diagnostic} or found
    return float(np.mean([e["value"] if e["higher_is_better"] else -e["value"] for e in found.values()]))


def _row(scores: np.ndarray) -> Any:
    """Return the scores of an example as a cell; arrays are faster than lists where there are a thousand classes."""
    return None if not len(scores) else scores if scores.ndim == 1 else scores.tolist()


def with_predictions(table: Any, predictions: Mapping[int, RowPrediction]) -> Any:
    """Return the table with the prediction and the scores of each row, both None for a row without prediction."""
    labels, scores = zip(*(predictions.get(row, (None, None)) for row in range(len(table))), strict=True)
    return table.add_column("prediction", list(labels)).add_column("scores", list(scores))


def check_reserved_columns(table: Any, given: Path, added: Sequence[str]) -> None:
    """Refuse a table that has columns of the names of new ones."""
    if taken := [column for column in added if column in table.column_names]:
        raise UserError(f"{given} already has {', '.join(taken)}, which predictions add; rename it")


def predictions_file(config: RunConfig, given: Path) -> Path:
    """Return the file of predictions: output=, or next to the input, as jsonl unless the input is a table."""
    ending = ending_of(given) if ending_of(given) in TABLES else ".jsonl"
    return Path(config.output or given.with_name(f"{stem_of(given)}.predictions{ending}"))


def describe_labels(names: Sequence[str] | None) -> str:
    return "numbers" if names is None else listed(names)
