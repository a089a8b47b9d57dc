"""Checks of a task against the record of its kind: metrics, label, columns, keys, splits, template."""

from __future__ import annotations

import string
from collections.abc import Iterator
from importlib.util import find_spec

from peftkit.config.jobs import JOBS
from peftkit.config.kinds import KINDS, kind_of
from peftkit.config.metric_names import metric_error
from peftkit.config.run import RunConfig
from peftkit.config.suggestions import nearest

SPLITS = ("train", "validation")


def task_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each key of the task that does not fit its kind."""
    task, kind = run.task, kind_of(run.task)
    yield from _split_errors(run)
    if wrong := [error for name in task.metrics if (error := metric_error(name, kind)) is not None]:
        yield from wrong
    elif task.label is None and kind.unlabelled_metrics and not {*task.metrics} <= {*kind.unlabelled_metrics}:
        known = ",".join(kind.unlabelled_metrics)
        yield f"task.metrics=[{','.join(task.metrics)}] need a label; set task.metrics=[{known}], or task.label=..."
    if task.label is None and kind.label == "required":
        yield f"task.label is not set; set task.label=... (task.kind={kind.name} needs it)"
    if task.label is not None and kind.label == "no":
        yield f"task.label is not for task.kind={kind.name}; drop it"
    fewest, most = kind.column_count
    if not fewest <= len(task.text) <= (most or len(task.text)):
        count = f"{fewest}" if most == fewest else f"{fewest} or more" if most is None else f"{fewest} or {most}"
        count += " column" if count == "1" else " columns"
        example = ",".join(kind.columns)
        yield f"task.text=[{','.join(task.text)}]: task.kind={kind.name} takes {count}; use task.text=[{example}]"
    for key in sorted({key for other in KINDS.values() for key in other.keys} - {*kind.keys}):
        if getattr(task, key):
            yield f"task.{key} is not for task.kind={kind.name}; drop it"
    for key, example in kind.needs.items():
        if getattr(task, key) is None:
            yield f"task.{key} is not set; set task.{key}={example}"
    if kind.package is not None and JOBS[run.job].trains and find_spec(kind.package[0]) is None:
        yield f"task.kind={kind.name} needs the package {kind.package[0]}; pip install 'peftkit[{kind.package[1]}]'"
    yield from template_errors("task.template", task.template, task.text)


def template_errors(key: str, template: str | None, columns: list[str]) -> Iterator[str]:
    """Yield a message for a template that cannot be parsed, or that names other columns."""
    try:
        named = {name for _, name, _, _ in string.Formatter().parse(template or "") if name is not None}
    except ValueError as error:
        yield f"{key}: {error}; write {{column}} where a text belongs"
        return
    for name in sorted(named - {*columns}):
        yield f"{key}: unknown column {{{name}}}{nearest(name, columns)}"


def _split_errors(run: RunConfig) -> Iterator[str]:
    splits = run.task.splits
    for name in (str(name) for name in splits if name not in SPLITS):
        yield f"unknown key task.splits.{name}{nearest(name, SPLITS, 'task.splits.')}"
    for name in (name for name in SPLITS if name not in splits):
        yield f"task.splits.{name} is not set; set task.splits.{name}=..."
    train, held_out = splits.get("train"), splits.get("validation", [])
    if not isinstance(train, (str, type(None))):
        yield f"task.splits.train={train}: expected one name; use task.splits.train=train"
    if not isinstance(held_out, list) or not all(isinstance(name, str) for name in held_out):
        yield f"task.splits.validation={held_out}: expected a list of names; use task.splits.validation=[dev]"
    if JOBS[run.job].trains and train is None and "train" in splits:
        yield f"task={run.task.name} has no training examples; train on task=mnli, then job=evaluate run=DIR"
