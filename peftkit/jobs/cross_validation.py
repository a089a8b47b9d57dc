"""Cross-validation: a run for each fold of the training examples, and one result of their pooled predictions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peftkit.config import RunConfig, kind_of
from peftkit.config.console import is_main_process, log
from peftkit.data.datasets import FOLD_SPLIT
from peftkit.leaderboard.paired import label_indicators
from peftkit.metrics import score
from peftkit.paths import atomic_write
from peftkit.pipeline.examples import RunContext
from peftkit.results.run_result import RunResult

SUMS = ("train_seconds", "feature_seconds", "eval_seconds", "tokens", "steps")
LARGEST = ("train_peak_bytes", "train_reserved_bytes", "eval_peak_bytes")


def cross_validate(context: RunContext, train_fold: Callable[[RunConfig], Path]) -> None:
    """Train each fold, and write the pooled predictions and their scores; a finished fold is not trained again.

    Args:
        train_fold: trains the run of one fold, and returns its folder.
    """
    config, folds = context.config, int(context.config.task.folds or 0)
    folders = [train_fold(_fold_config(config, fold)) for fold in range(folds)]
    if is_main_process():
        records = [RunResult(folder).record for folder in folders]
        table = pa.concat_tables([pq.read_table(folder / "predictions.parquet") for folder in folders])
        with atomic_write(context.folder / "predictions.parquet") as part:
            pq.write_table(table, part)
        context.result |= _pooled(context, table, folders, records)
        _log_folds(context.result)


def _fold_config(config: RunConfig, fold: int) -> RunConfig:
    task, overrides = replace(config.task, fold=fold), (*config.overrides, f"task.fold={fold}")
    return replace(config, task=task, overrides=overrides)


def _pooled(
    context: RunContext, table: pa.Table, folders: Sequence[Path], records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the parts of the result that all folds give together."""
    names, task = context.dataset.label_names, context.config.task
    others: dict[str, Any] | None = None
    labels, predictions = (table[name].to_numpy() for name in ("label", "prediction"))
    if kind_of(task).several_labels:
        labels, predictions = (label_indicators(each, len(names or [])).astype(int) for each in (labels, predictions))
        others = {"label_scores": (labels, np.array(table["scores"].to_pylist(), float))}
    folds = [
        {
            "folder": folder.name,
            "examples": record["audit"]["rows"][FOLD_SPLIT],
            "learning_rate": record["run"]["config"]["train"]["learning_rate"],
            "scores": {name: entry["value"] for name, entry in record["scores"].items()},
        }
        for folder, record in zip(folders, records, strict=True)
    ]
    searches = [record["search"] for record in records if record["search"]]
    return {
        "scores": score(list(task.metrics), predictions, labels, "", names, others=others),
        "costs": _costs([record["costs"] for record in records]),
        "audit": _audit([record["audit"] for record in records], str(context.config.task.splits["train"])),
        "search": {**searches[0], "chosen": None, "seconds": sum(s["seconds"] for s in searches)} if searches else None,
        "cross_validation": {
            "folds": folds,
            "spread": {name: stdev(fold["scores"][name] for fold in folds) for name in folds[0]["scores"]},
        },
    }


def _costs(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the costs of all folds together: times, tokens and steps add up, memory is that of the largest."""
    found = dict(costs[0])
    found |= {name: sum(each[name] for each in costs) for name in SUMS if name in found}
    found |= {name: max(each[name] or 0 for each in costs) or None for name in LARGEST if name in found}
    return found | {"tokens_per_second": found["tokens"] / found["train_seconds"] if found["tokens"] else 0.0}


def _audit(audits: Sequence[Mapping[str, Any]], train: str) -> dict[str, Any]:
    """Return the audit of the first fold, with the counts of all scored examples, and the fewest trained on."""
    found = {name: dict(value) if isinstance(value, Mapping) else value for name, value in audits[0].items()}
    counts = [audit["label_counts"][FOLD_SPLIT] for audit in audits]
    for name in ("rows", "truncated"):
        found[name][FOLD_SPLIT] = sum(audit[name][FOLD_SPLIT] for audit in audits)
    found["rows"][train] = min(audit["rows"][train] for audit in audits)
    if found["label_names"] is not None:
        found["label_counts"][FOLD_SPLIT] = {name: sum(each[name] for each in counts) for name in counts[0]}
    return found


def _log_folds(result: Mapping[str, Any]) -> None:
    found = result["cross_validation"]
    for name, entry in result["scores"].items():
        each = [fold["scores"][name] for fold in found["folds"]]
        log(
            f"   {name} {entry['value']:.3f} over all out-of-fold predictions; of the {len(each)} folds "
            f"{min(each):.3f} to {max(each):.3f}, standard deviation {found['spread'][name]:.3f}"
        )
