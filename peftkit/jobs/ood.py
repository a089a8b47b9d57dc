"""Out-of-distribution detection: how well a finished run's scores and features separate texts of another kind."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.config import RunConfig, TaskConfig, UserError, refusal, refuse
from peftkit.config.checks.columns import missing_split
from peftkit.config.console import is_main_process, log
from peftkit.config.quoting import as_override
from peftkit.config.source import Source
from peftkit.data.columns import prepare_table, require_columns, text_columns
from peftkit.data.datasets import TaskDataset, subset
from peftkit.data.tables import evaluation_tables
from peftkit.jobs.evaluate import data_name, typed_task
from peftkit.jobs.forgetting import load_scored_examples
from peftkit.metrics.detection import Detection, detection
from peftkit.pipeline.artifacts import load_bundle, with_eval_settings
from peftkit.pipeline.inputs import parse_texts
from peftkit.pipeline.outside import NO_FEATURES, detector_values, text_outputs
from peftkit.pipeline.sources import warn_substitutions
from peftkit.results import run_folder
from peftkit.results.locks import locked_file
from peftkit.results.run_result import RunResult

SHUFFLED, SEED = "shuffled", 0


@dataclass(frozen=True)
class OutsideTexts:
    """Texts of another kind as examples of the run's task, with the columns that they are from."""

    name: str
    split: str
    examples: Dataset
    columns: list[str]
    source: Source


@dataclass(frozen=True)
class OodResult:
    """How well a run detects texts of another kind, by detector; `record` is the content of the file."""

    detectors: dict[str, Detection]
    record: dict[str, Any]
    file: Path


def ood(config: RunConfig) -> Path:
    """Measure how well a run detects texts of another kind, print the table, and return the JSON file."""
    found = detect(config)
    if is_main_process():
        print("\n".join(_table(found.record)))
        log(f"-> {found.file}")
        if not config.output:
            log(f"job=report run={as_override(found.file.parent)} adds it to report.html")
    return found.file


def detect(config: RunConfig) -> OodResult:
    """Measure how well a run detects texts of another kind, and write the JSON file.

    Raises:
        UserError: the texts cannot be read or do not fit the run, or its own data differs from that of the run.
    """
    run = RunResult.finished(config.run)
    trained = with_eval_settings(config, run.config)
    data = load_scored_examples(config, run, trained_on=True)
    inside, trained_on = trained.task.splits["validation"][0], str(trained.task.splits["train"])
    outside = _shuffled(run, data) if config.ood.shuffle else _texts_of_task(config, run)
    warn_substitutions(run.source, outside.source)
    bundle = load_bundle(run)
    outputs = partial(text_outputs, trained, bundle)
    groups = [outputs(data.splits[inside]), outputs(outside.examples)]
    has_features = groups[0].features is not None
    values = detector_values(trained, groups, outputs(data.splits[trained_on]) if has_features else None)
    found = {name: detection(*each) for name, each in values.items()}
    record = {
        "inside": {
            "task": trained.task.name,
            "split": inside,
            "texts": len(groups[0].scores),
            "truncated": groups[0].truncated,
            "source": asdict(data.source),
        },
        "outside": {
            "task": outside.name,
            "split": outside.split,
            "texts": len(groups[1].scores),
            "truncated": groups[1].truncated,
            "source": asdict(outside.source),
            "columns": outside.columns,
        },
        "trained_on": len(data.splits[trained_on]),
        "detectors": {name: _entry(each) for name, each in found.items()},
        "left_out": {} if has_features else {"mahalanobis": NO_FEATURES},
    }
    file = Path(config.output) if config.output else run.folder / f"ood-{outside.name}.json"
    if is_main_process():
        with locked_file(file):
            run_folder.write_text(file, json.dumps(record, indent=1) + "\n")
    return OodResult(found, record, file)


def _texts_of_task(config: RunConfig, run: RunResult) -> OutsideTexts:
    """Return the texts of the task or the data that the overrides name, as examples of the run's task."""
    task = typed_task(config.task, run.config.task, run.label_names, config.overrides)
    has_own_data = any(override.lstrip("+").startswith("task.dataset=") for override in config.overrides)
    root = None if has_own_data else config.data_root
    tables, source = evaluation_tables(task, root, config.source)
    split, table = _split_of(task, tables, source)
    own, recorded = run.config.task, run.record["audit"]["sources"]["data"]
    is_same = source.revision == recorded["revision"] and (source.kind == "folder" or task.subset == own.subset)
    if is_same and source.name == recorded["name"]:
        raise UserError(refusal(f"task={task.name} has the texts of the run itself", "task=cola", "ood.shuffle=true"))
    place = f"{source.name}, {split}"
    prepared = prepare_table(task, table, place)
    require_columns(task, prepared, text_columns(task))
    columns = task.text[: len(own.text)]
    if len(columns) < len(own.text):
        wrong = f"the run reads {' and '.join(own.text)}, task={task.name} has one text, {columns[0]}"
        raise UserError(refusal(wrong, "task=mrpc", "ood.shuffle=true"))
    if len(columns) < len(task.text):
        others = ", ".join(task.text[len(columns) :])
        log(f"!! task={task.name} has {len(task.text)} texts, the run reads {len(columns)}: {others} is left out")
    texts = [[_joined(each) for each in column] for column in parse_texts(task, prepared, place)[: len(columns)]]
    examples = subset(
        _examples(own, [row for row in zip(*texts, strict=True) if all(row)]), config.task.max_eval_samples
    )
    return OutsideTexts(data_name(task, source, run), split, examples, columns, source)


def _split_of(task: TaskConfig, tables: dict[str, Dataset], source: Source) -> tuple[str, Dataset]:
    """Return the name and the table of the first validation split, or of the only table."""
    split = task.splits["validation"][0]
    if split not in tables and len(tables) > 1:
        scored = replace(task, splits={**task.splits, "train": None})
        raise UserError(missing_split(scored, list(tables), source.name) or split)
    return (split, tables[split]) if split in tables else next(iter(tables.items()))


def _shuffled(run: RunResult, data: TaskDataset) -> OutsideTexts:
    """Return the run's own validation texts, the words of each in random order."""
    task, split = run.config.task, run.config.task.splits["validation"][0]
    columns = [data.splits[split][name][:] for name in text_columns(task)]
    rows = [
        [_shuffle_words(text, (SEED, row, column)) for column, text in enumerate(texts)]
        for row, texts in enumerate(zip(*columns, strict=True))
    ]
    return OutsideTexts(SHUFFLED, split, _examples(task, rows), list(task.text), data.source)


def _shuffle_words(text: str, seed: Sequence[int]) -> str:
    return " ".join(np.random.default_rng(seed).permutation(text.split()).tolist())


def _joined(text: Any) -> str:
    """Return a text, of a list of words or texts joined by spaces."""
    return text if isinstance(text, str) else " ".join(map(str, text))


def _examples(task: TaskConfig, rows: Sequence[Sequence[str]]) -> Dataset:
    """Return texts (examples, columns) as examples of a task without labels.

    Raises:
        UserError: there is none.
    """
    refuse((not rows, "the other task has no text; name another one, such as task=cola"))
    texts = dict(zip(text_columns(task), map(list, zip(*rows, strict=True)), strict=True))
    return Dataset.from_dict({"id": range(len(rows)), **texts, "label": [None] * len(rows)})


def _entry(found: Detection) -> dict[str, Any]:
    return {
        "auroc": found.auroc,
        "auroc_interval": found.auroc_interval,
        "fpr_at_95_tpr": found.fpr,
        "fpr_at_95_tpr_interval": found.fpr_interval,
        "roc": found.roc,
    }


def _table(record: dict[str, Any]) -> list[str]:
    inside, outside = record["inside"], record["outside"]
    return [
        f"{outside['texts']:,} texts of {outside['task']} ({outside['split']}) against {inside['texts']:,} of "
        f"{inside['task']} ({inside['split']})",
        f"{'detector':<12} AUROC  95 % interval   FPR at 95 % TPR  95 % interval",
        *(
            f"{name:<12} {each['auroc']:.3f}  {_shown(each['auroc_interval']):<14}  {each['fpr_at_95_tpr']:<15.3f}  "
            f"{_shown(each['fpr_at_95_tpr_interval'])}"
            for name, each in record["detectors"].items()
        ),
        *(f"{name}: left out, {reason}" for name, reason in record["left_out"].items()),
    ]


def _shown(interval: Sequence[float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"
