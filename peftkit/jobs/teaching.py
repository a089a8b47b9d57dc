"""Turn a finished run into a teacher: its scores of a student's training rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from datasets import Dataset

from peftkit import train
from peftkit.data.formats import Encoded
from peftkit.jobs.console import say
from peftkit.jobs.prepare import predictor
from peftkit.schema import Run, UserError


def with_teacher(run: Run, encoded: Encoded, rows: Dataset, names: list[str] | None) -> Encoded:
    """Return encoded training rows with the teacher's scores of the same rows, which it reads in its own way.

    Raises:
        UserError: the teacher tells other labels apart, or reads other columns.
    """
    from peftkit.jobs.use import label_names, load_parts, trained_run

    folder = Path(str(run.distill.teacher))
    trained = trained_run(folder)
    told, wanted = label_names(folder), names
    if trained.task.kind != run.task.kind or (names is None and trained.model.family == "seq2seq"):
        raise UserError(
            f"{folder} answers {trained.task.kind} as a {trained.model.family}, which teaches no {run.task.kind}; "
            "name a run with a head of this task"
        )
    if told != wanted:
        raise UserError(f"the teacher tells {told} apart, task={run.task.name} has {wanted}; name a run of this task")
    if list(trained.task.text) != list(run.task.text):
        raise UserError(
            f"the teacher reads {trained.task.text}, task={run.task.name} has {run.task.text}; name a run of this task"
        )
    say(f"   taught by {trained.method.name} of {trained.model.name}, {folder}")
    parts = load_parts(trained, folder)
    asked = parts.format.encode(rows)
    with predictor(trained, parts) as trainer:
        scores = train.predict(trainer, asked.rows, asked.lengths).scores
    return replace(encoded, rows=encoded.rows.add_column(train.TEACHER, scores.astype("float32").tolist()))
