"""Cross-validation: a run for each fold or domain that is left out, and one result of their pooled predictions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from peftkit.config import RunConfig
from peftkit.config.console import is_main_process, log
from peftkit.config.quoting import as_override
from peftkit.data.columns import DOMAIN
from peftkit.data.datasets import FOLD_SPLIT
from peftkit.paths import atomic_write
from peftkit.pipeline.domain_scores import domain_record, log_domains, table_scores
from peftkit.pipeline.examples import RunContext
from peftkit.results.run_result import RunResult

SUMS = ("train_seconds", "feature_seconds", "eval_seconds", "tokens", "steps")
LARGEST = ("train_peak_bytes", "train_reserved_bytes", "eval_peak_bytes")


def cross_validate(context: RunContext, train_fold: Callable[[RunConfig], Path]) -> None:
    """Train each fold, and write the pooled predictions and their scores; a finished fold is not trained again.

    A domain that is left out is a fold of the validation examples.

    Args:
        train_fold: trains the run of one fold, and returns its folder.
    """
    folders = [train_fold(each) for each in _fold_configs(context)]
    if is_main_process():
        records = [RunResult(folder).record for folder in folders]
        table = pa.concat_tables([pq.read_table(folder / "predictions.parquet") for folder in folders])
        with atomic_write(context.folder / "predictions.parquet") as part:
            pq.write_table(table, part)
        context.result |= _pooled(context, table, folders, records)
        _log_folds(context.result)
        if "domains" in context.result:
            log_domains(context.result["domains"])


def _fold_configs(context: RunContext) -> list[RunConfig]:
    config, overrides = context.config, context.config.overrides
    if config.domains.leaves_each_out:
        splits = config.task.splits["validation"]
        names = sorted({name for split in splits for name in context.dataset.splits[split].unique(DOMAIN)})
        overrides = tuple(each for each in overrides if not each.startswith("domains.leave_out="))
        return [
            replace(
                config,
                domains=replace(config.domains, leave_out=name),
                overrides=(*overrides, f"domains.leave_out={as_override(name)}"),
            )
            for name in names
        ]
    return [
        replace(config, task=replace(config.task, fold=fold), overrides=(*overrides, f"task.fold={fold}"))
        for fold in range(int(config.task.folds or 0))
    ]


def _pooled(
    context: RunContext, table: pa.Table, folders: Sequence[Path], records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the parts of the result that all folds give together."""
    names, config = context.dataset.label_names, context.config
    splits = list(config.task.splits["validation"]) if config.domains.leaves_each_out else [FOLD_SPLIT]
    by_domain = domain_record(table, config.task, names) if config.task.domain is not None else None
    folds = [
        {
            "folder": folder.name,
            "examples": sum(record["audit"]["rows"][split] for split in splits),
            "learning_rate": record["run"]["config"]["train"]["learning_rate"],
            "scores": {name: entry["value"] for name, entry in record["scores"].items()},
        }
        for folder, record in zip(folders, records, strict=True)
    ]
    searches = [record["search"] for record in records if record["search"]]
    return {
        "scores": table_scores(table, config.task, names),
        **({} if by_domain is None else {"domains": by_domain}),
        "costs": _costs([record["costs"] for record in records]),
        "audit": _audit([record["audit"] for record in records], str(config.task.splits["train"]), splits),
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


def _audit(audits: Sequence[Mapping[str, Any]], train: str, splits: Sequence[str]) -> dict[str, Any]:
    """Return the audit of the first fold, with the counts of all scored examples, and the fewest trained on."""
    found = {name: dict(value) if isinstance(value, Mapping) else value for name, value in audits[0].items()}
    found["rows"][train] = min(audit["rows"][train] for audit in audits)
    for split in splits:
        counts = [audit["label_counts"][split] for audit in audits]
        for name in ("rows", "truncated"):
            found[name][split] = sum(audit[name][split] for audit in audits)
        if found["label_names"] is not None:
            found["label_counts"][split] = {name: sum(each.get(name, 0) for each in counts) for name in counts[0]}
    return found


def _log_folds(result: Mapping[str, Any]) -> None:
    found = result["cross_validation"]
    for name, entry in result["scores"].items():
        each = [fold["scores"][name] for fold in found["folds"]]
        log(
            f"   {name} {entry['value']:.3f} over all out-of-fold predictions; of the {len(each)} folds "
            f"{min(each):.3f} to {max(each):.3f}, standard deviation {found['spread'][name]:.3f}"
        )
