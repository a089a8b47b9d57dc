"""Checks of the runs whose answers job=judge compares."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from peftkit.config.kinds import generates_text
from peftkit.config.run import RunConfig, TaskConfig


def judging_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each run folder whose answers cannot be judged."""
    if run.job != "judge":
        return
    folders = [run.run] if run.run is not None else run.runs or []
    if run.run is not None and run.runs is not None:
        yield "run= is compared with its references, runs= with each other; drop one of the two"
    elif len(folders) != (1 if run.run is not None else 2):
        yield "job=judge needs answers; set run=DIR to compare with its references, or runs=[A,B] with each other"
    elif len({Path(folder).resolve() for folder in folders}) < len(folders):
        yield f"runs= names {folders[0]} twice; set run={folders[0]} to compare it with its references"
    else:
        for folder in folders:
            yield from _answer_errors(Path(folder))


def _answer_errors(folder: Path) -> Iterator[str]:
    """Yield a message for a run without generated answers; unfinished runs have a message already."""
    try:
        config = json.loads((folder / "result.json").read_text(encoding="utf-8"))["run"]["config"]
        task, is_trial = TaskConfig(**config["task"]), config.get("trial")
    except (OSError, ValueError, KeyError, TypeError):
        return
    if is_trial:
        yield f"{folder} is a trial, scored on training examples; name a run"
    elif not generates_text(task):
        kind = f"{task.kind} without a label" if task.kind == "causal_lm" else task.kind
        yield f"{folder} is a run of {kind}, which generates no answers; name one of task=seq2seq, or of another text"
    elif not (folder / "predictions.parquet").is_file():
        yield f"{folder} contains no predictions.parquet with its answers; set force=true to train it again"
