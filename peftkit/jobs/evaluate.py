"""Score a finished run on its own validation split or on another task."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from peftkit.config import RunConfig, TaskConfig, kind_of, refuse
from peftkit.config.console import is_main_process, log
from peftkit.config.quoting import as_override
from peftkit.config.source import Source
from peftkit.data.datasets import load_task_dataset
from peftkit.paths import safe_name
from peftkit.pipeline.artifacts import (
    base_source,
    load_with,
    run_tokenizer_source,
    typed_keys,
    with_eval_settings,
    with_settings,
)
from peftkit.pipeline.calibration import compare_scores, scale_probabilities, score_file
from peftkit.pipeline.domain_scores import domain_record, log_domains
from peftkit.pipeline.evaluate import describe_labels
from peftkit.pipeline.examples import score_reference, score_splits
from peftkit.pipeline.main_process import locked_by_main_process
from peftkit.pipeline.sources import warn_substitutions
from peftkit.results import run_folder
from peftkit.results.run_result import RunResult


@dataclass(frozen=True)
class Evaluation:
    """The scores of a finished run on a task."""

    task: str
    scores: dict[str, dict[str, Any]]  # metric: value, higher_is_better
    costs: dict[str, Any]
    file: Path  # evaluation-NAME.json, in the folder of the predictions


def evaluate(config: RunConfig) -> Path:
    """Score a finished run, print the scores, and return the run folder."""
    found = evaluate_run(config)
    if is_main_process():
        if found.scores:
            print(*(f"{found.task} {name} {each['value']:.4f}" for name, each in found.scores.items()), sep="\n")
        else:
            log(f"{found.task}: the labels are hidden, so there is no score; the predictions are saved")
        log(f"-> {found.file}")
        log(f"job=report run={as_override(found.file.parent)} adds it to report.html")
    return found.file.parent


def evaluate_run(config: RunConfig) -> Evaluation:
    """Score a finished run on its own validation split, or on another task with the same labels (task=ax).

    Raises:
        UserError: the kind or the labels of the task differ from those of the run.
    """
    run = RunResult.finished(config.run)
    kind, names = run.config.task.kind, run.label_names
    task = typed_task(config.task, run.config.task, names, config.overrides)
    refuse(
        (
            task.kind != kind,
            f"the run was trained on {kind}, task={task.name} is {task.kind}; use a task of kind {kind}",
        )
    )
    trained_on = run.record["audit"]["sources"]["data"]["revision"]
    scored = replace(task, splits={**task.splits, "train": None})
    data = load_task_dataset(scored, config.data_root, config.source, trained_on)
    message = (
        f"the run has the labels {describe_labels(names)}, task={task.name} has {describe_labels(data.label_names)}"
    )
    refuse((data.label_names != names, message))
    chosen = with_eval_settings(config, replace(run.config, task=task))
    warn_substitutions(run.source, data.source)
    reference = score_reference(chosen, base_source(run), data.splits, run_tokenizer_source(run))
    bundle = load_with(run, chosen)
    source = data.source
    name = data_name(task, source, run)
    file, record = run.folder / f"predictions-{name}.parquet", run.folder / f"evaluation-{name}.json"
    with locked_by_main_process(record):
        scores, costs = score_splits(chosen, bundle, data, file, reference)
        if is_main_process() and run.temperature != 1:
            scale_probabilities(file, run.temperature)
        if is_main_process():
            found: dict[str, Any] = {"scores": scores, "costs": costs, "source": asdict(source), "task": asdict(task)}
            if scores and task.domain is not None:
                found["domains"] = domain_record(pq.read_table(file), task, data.label_names)
                log_domains(found["domains"])
            if scores and run.score_thresholds is not None:
                plain = score_file(file, task.metrics, replace(bundle.format, score_thresholds=None))
                found["calibration"] = {"scores": compare_scores(plain, scores)}
            run_folder.write_text(record, json.dumps(found, indent=1) + "\n")
    return Evaluation(task.name, scores, costs, record)


def data_name(task: TaskConfig, source: Source, run: RunResult) -> str:
    """Return the name of a task in files of a run.

    Of other data it has the data's name and the start of its revision, and of other generation settings these.
    """
    is_other = source.revision != run.record["audit"]["sources"]["data"]["revision"]
    parts, generation = [safe_name(task.name)], task.generation or {}
    if is_other and (task.suite == "own" or task.name == run.config.task.name):
        parts += [Path(source.name).stem, str(source.revision)[:8]]
    if generation != (run.config.task.generation or {}):
        parts += [f"{name}-{value}" for name, value in sorted(generation.items())] or ["greedy"]
    return safe_name("-".join(parts))


def typed_task(
    chosen: TaskConfig, trained: TaskConfig, names: list[Any] | None, overrides: Sequence[str]
) -> TaskConfig:
    """Return the task that the overrides choose, or the run's own with the keys that they set."""
    keys = typed_keys(overrides)
    own = {key.split(".")[1]: getattr(chosen, key.split(".")[1]) for key in keys if key.startswith("task.")}
    if "generation" in own:
        own["generation"] = with_settings(trained.generation, chosen.generation)
    task = chosen if "task" in keys else replace(trained, **own)
    return replace(task, labels=names) if task.labels is None and kind_of(task).has_label_names else task
