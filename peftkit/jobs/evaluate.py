"""Score a finished run on its own validation split or on another task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, TaskConfig, UserError, is_prompted
from peftkit.config.source import Source
from peftkit.data.datasets import load_task_dataset
from peftkit.paths import safe_name
from peftkit.pipeline.evaluate import evaluate_splits
from peftkit.pipeline.inference import (
    base_source,
    join_names,
    load_bundle,
    recorded_config,
    recorded_label_names,
    recorded_source,
    run_tokenizer_source,
    with_eval_batch_size,
)
from peftkit.pipeline.prompting import format_for, read_shots
from peftkit.pipeline.reference import score_reference
from peftkit.pipeline.sources import warn_substitutions
from peftkit.pipeline.trainers import predictor
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log


@dataclass(frozen=True)
class Evaluation:
    """The scores of a finished run on a task."""

    task: str
    scores: dict[str, dict[str, Any]]  # metric: value, higher_is_better
    costs: dict[str, Any]
    file: Path  # evaluation-NAME.json, beside the predictions


def evaluate(config: RunConfig) -> Path:
    """Score a finished run, print the scores, and return the run folder."""
    found = evaluate_run(config)
    if is_main_process():
        for metric, entry in found.scores.items():
            print(f"{found.task} {metric} {entry['value']:.4f}")
        if not found.scores:
            log(f"{found.task}: the labels are hidden, so there is no score; the predictions are kept")
        log(f"-> {found.file}")
    return Path(str(config.run))


def evaluate_run(config: RunConfig) -> Evaluation:
    """Score a finished run on its own validation split, or on another task with the same labels (task=ax).

    Raises:
        UserError: the task is of another kind or has other labels.
    """
    folder = Path(str(config.run))
    trained = recorded_config(folder)
    names = recorded_label_names(folder)
    task = _task_of(config.task, trained.task, names, config.overrides)
    if task.kind != trained.task.kind:
        raise UserError(f"the run answers {trained.task.kind}, task={task.name} is {task.kind}; name one of its kind")
    trained_on = run_folder.read_result(folder)["audit"]["sources"]["data"]["revision"]  # type: ignore[index]
    rows = load_task_dataset(_only_evaluation(task), config.data_root, config.source, trained_on)
    if rows.label_names != names:
        raise UserError(
            f"the run has the labels {join_names(names)}, task={task.name} has {join_names(rows.label_names)}"
        )
    chosen = with_eval_batch_size(config, replace(trained, task=task))
    warn_substitutions(recorded_source(folder), rows.source)
    reference = score_reference(
        chosen, base_source(trained, folder), rows.splits, run_tokenizer_source(trained, folder)
    )
    bundle = load_bundle(trained, folder)
    bundle.format = format_for(
        chosen, names, bundle.tokenizer, read_shots(folder) if is_prompted(trained) else (), bundle.model
    )
    splits = {name: reference.beside(name, bundle.format.encode(table)) for name, table in rows.splits.items()}
    is_other = rows.source.revision != trained_on and (task.suite == "own" or task.name == trained.task.name)
    name = f"{task.name}-{_data_name(rows.source)}" if is_other else task.name
    with predictor(chosen, bundle) as trainer:
        file = folder / f"predictions-{name}.parquet"
        scores, costs = evaluate_splits(chosen, bundle, trainer, splits, rows, file)
    record = folder / f"evaluation-{name}.json"
    if is_main_process():
        found = {"scores": scores, "costs": costs, "source": rows.source.__dict__, "task": asdict(task)}
        run_folder.write_text(record, json.dumps(found, indent=1) + "\n")
    return Evaluation(task.name, scores, costs, record)


def _task_of(chosen: TaskConfig, trained: TaskConfig, names: list[str] | None, overrides: Sequence[str]) -> TaskConfig:
    """Return the task that the overrides choose, or the run's own with the keys that they set."""
    overrides = [override.lstrip("+") for override in overrides]
    task = chosen
    if not any(override.startswith("task=") for override in overrides):
        keys = {name.partition("=")[0].split(".")[1] for name in overrides if name.startswith("task.")}
        task = replace(trained, **{key: getattr(chosen, key) for key in keys})
    is_own = task.labels is None and task.kind in ("classification", "token_classification")
    return replace(task, labels=names) if is_own else task


def _data_name(source: Source) -> str:
    """Return the part of a file's name that identifies the data: its name and the start of its revision."""
    return f"{safe_name(Path(source.name).stem)}-{str(source.revision)[:8]}"


def _only_evaluation(task: TaskConfig) -> TaskConfig:
    return replace(task, splits={**task.splits, "train": None})
