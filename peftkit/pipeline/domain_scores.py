"""The scores of each domain in a run, and what an objective over domains learned."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset

from peftkit import training
from peftkit.config import TaskConfig, kind_of
from peftkit.config.console import is_main_process, log
from peftkit.data.columns import DOMAIN
from peftkit.data.domains import OTHERS_SPLIT
from peftkit.data.formats import Encoded
from peftkit.leaderboard.paired import label_indicators
from peftkit.metrics import score, split_suffix
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import evaluate_splits
from peftkit.pipeline.examples import EncodedSplits, RunContext

OTHERS_FILE = "other_domains.parquet"  # of a run folder, with the columns of predictions.parquet
PROBED = 5000  # training examples, at most, on whose features the logistic regression is fitted


def record_domains(
    context: RunContext, bundle: TrainingBundle, trainer: training.ScoringTrainer, splits: EncodedSplits
) -> None:
    """Record the scores of each domain, and those of the domains that are not scored in a file of their own.

    The predictions of the validation splits have been written before.
    """
    config, data, folder = context.config, context.dataset, context.folder
    if config.task.domain is None or config.trial:
        return
    held_out = {name: (encoded, data.splits[name]) for name, encoded in splits.validation.items()}
    if splits.others is not None:
        held_out[OTHERS_SPLIT] = splits.others, data.splits[OTHERS_SPLIT]
        evaluate_splits(config, bundle, trainer, {OTHERS_SPLIT: splits.others}, data, folder / OTHERS_FILE)
    learned = objective_record(trainer, splits.train, held_out)
    if not is_main_process():
        return
    record = domain_record(pq.read_table(folder / "predictions.parquet"), config.task, data.label_names)
    log_domains(record)
    if splits.others is not None:
        learned["others"] = domain_record(pq.read_table(folder / OTHERS_FILE), config.task, data.label_names)
    context.result["domains"] = record | learned


def table_scores(table: Any, task: TaskConfig, names: list[str] | None) -> dict[str, dict[str, Any]]:
    """Return the scores of the labeled rows of predictions.parquet, named as by `evaluate_splits`."""
    table = table.filter(table["label"].is_valid())
    splits = dict.fromkeys(table["split"].to_pylist())
    found: dict[str, dict[str, Any]] = {}
    for split in splits:
        rows = table.filter(np.array(table["split"].to_pylist()) == split)
        others: dict[str, tuple[Any, Any]] = {}
        labels, predictions = (rows[name].to_numpy() for name in ("label", "prediction"))
        if kind_of(task).several_labels:
            labels, predictions = (
                label_indicators(each, len(names or [])).astype(int) for each in (labels, predictions)
            )
            others = {"label_scores": (labels, np.array(rows["scores"].to_pylist(), float))}
        found |= score(list(task.metrics), predictions, labels, split_suffix(split, splits), names, others=others)
    return found


def domain_record(table: Any, task: TaskConfig, names: list[str] | None) -> dict[str, Any]:
    """Return the scores of each domain in a table of predictions, the worst domain and the mean of each metric."""
    table = table.filter(table["label"].is_valid())
    column = np.array(table["domain"].to_pylist())
    parts = {str(name): table.filter(column == name) for name in sorted({*column.tolist()})}
    found = {name: table_scores(part, task, names) for name, part in parts.items()}
    metrics = dict.fromkeys(metric for scores in found.values() for metric in scores)
    worst, average = {}, {}
    for metric in metrics:
        entries = {name: scores[metric] for name, scores in found.items() if metric in scores}
        values = {name: each["value"] for name, each in entries.items()}
        is_up = all(each["higher_is_better"] for each in entries.values())
        lowest = (min if is_up else max)(values, key=values.__getitem__)
        worst[metric] = {"domain": lowest, "value": values[lowest]}
        average[metric] = fmean(values.values())
    return {
        "scores": {name: {"examples": len(parts[name]), "scores": _values(scores)} for name, scores in found.items()},
        "worst": worst,
        "average": average,
    }


def _values(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    return {name: each["value"] for name, each in scores.items()}


def log_domains(record: Mapping[str, Any]) -> None:
    """Log the worst domain and the mean of each metric."""
    for metric, value in record["average"].items():
        worst, number = record["worst"][metric], len(record["scores"])
        log(f"   {metric} by domain: worst {worst['value']:.3f} ({worst['domain']}), mean of {number} {value:.3f}")


def objective_record(
    trainer: training.ScoringTrainer, train: Encoded, held_out: Mapping[str, tuple[Encoded, Dataset]]
) -> dict[str, Any]:
    """Return what an objective learned: the weights of domains, or the accuracy of its domain classifier.

    Args:
        held_out: validation examples, encoded and not.
    """
    loss = trainer.loss
    if isinstance(loss, training.GroupDROLoss):
        return {"group_weights": dict(zip(loss.names, loss.weights.tolist(), strict=True))}
    if not isinstance(loss, training.DomainAdversarialLoss):
        return {}
    known = {
        split: np.array([loss.names.index(name) if name in loss.names else -1 for name in examples[DOMAIN][:]])
        for split, (_, examples) in held_out.items()
    }
    domains = np.concatenate([*known.values()])
    is_known = domains >= 0
    if not is_known.any():  # of a single domain that was left out
        return {}

    def outputs(reader: Any) -> np.ndarray:
        return np.concatenate([_outputs(trainer, encoded, reader) for encoded, _ in held_out.values()])[is_known]

    domains = domains[is_known]
    size = min(PROBED, len(train.inputs))
    fitted = replace(train, inputs=train.inputs.select(range(size)), lengths=train.lengths[:size])
    ids = np.array(fitted.inputs[training.DOMAIN_COLUMN][:])
    probed = _probe(_outputs(trainer, fitted, loss.features), ids, outputs(loss.features))
    return {
        "classifier": {
            "accuracy": float((outputs(loss.domain_logits).argmax(-1) == domains).mean()),
            "probe_accuracy": float((probed == domains).mean()),
            "chance": float(np.bincount(domains).max() / len(domains)),
            "examples": len(domains),
        }
    }


def _outputs(trainer: training.ScoringTrainer, encoded: Encoded, reader: Any) -> np.ndarray:
    """Return what a reader computes of encoded examples (examples, ...)."""
    own, trainer.reader = trainer.reader, reader
    try:
        return training.predict_scores(trainer, encoded.inputs, encoded.lengths).scores
    finally:
        trainer.reader = own


def _probe(features: np.ndarray, domains: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Return the domains that a logistic regression predicts from held-out features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return model.fit(features, domains).predict(held_out)  # type: ignore[no-any-return]
