"""Turn a finished run into a teacher: its scores of a student's training rows, or its answers to them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from peftkit import record, train
from peftkit.data.formats import Encoded
from peftkit.jobs.answers import answer
from peftkit.jobs.console import is_main, say
from peftkit.jobs.prepare import predictor
from peftkit.schema import Run, UserError, writes


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


def with_answers(run: Run, rows: Dataset, folder: Path) -> tuple[Dataset, dict[str, Any]]:
    """Return training rows answered by the teacher, and their counts (sequence-level: Kim and Rush 2016, section 3.2).

    The teacher writes greedily, in its own way; what it wrote is kept in taught.jsonl, and a run that goes on reads it
    there. A row to which it wrote nothing is dropped. At `distill.weight` 0.5 each row with its own label is learned
    as well.

    Raises:
        UserError: the teacher writes nothing, or reads other columns.
    """
    file = folder / "taught.jsonl"
    if not file.is_file():
        answers = _answers(run, rows)
        lines = [{"id": row, "answer": text} for row, text in zip(rows["id"], answers, strict=True)]
        if is_main():
            record.write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    else:
        answers = [json.loads(line)["answer"] for line in file.read_text().splitlines()]
    kept = [number for number, text in enumerate(answers) if text]
    if not kept:
        raise UserError(f"{run.distill.teacher} wrote nothing to any training row; name another run")
    taught = rows.select(kept).remove_columns("label").add_column("label", [answers[number] for number in kept])
    taught = taught.cast(rows.features)
    empty = len(rows) - len(kept)
    if empty:
        say(f"   {empty} of {len(rows)} rows are dropped, to which the teacher wrote nothing")
    counts = {"asked": len(rows), "empty": empty, "own_labels": run.distill.weight != 1}
    return taught if run.distill.weight == 1 else concatenate_datasets([rows, taught]), counts


def _answers(run: Run, rows: Dataset) -> list[str]:
    from peftkit.jobs.use import load_parts, trained_run

    folder = Path(str(run.distill.teacher))
    trained = trained_run(folder)
    of_turns = {task.kind == "instructions" for task in (trained.task, run.task)}
    if not writes(trained.task) or len(of_turns) > 1:
        raise UserError(
            f"{folder} answers {trained.task.kind}, which teaches no {run.task.kind}; name a run that writes"
        )
    if list(trained.task.text) != list(run.task.text):
        raise UserError(
            f"the teacher reads {trained.task.text}, task={run.task.name} has {run.task.text}; name a run of this task"
        )
    say(f"   taught by {trained.method.name} of {trained.model.name}, {folder}")
    parts = load_parts(trained, folder)
    with predictor(trained, parts) as trainer:
        answers, costs = answer(parts, trainer, parts.format.encode(rows))
    say(f"   it answered {len(rows)} rows in {costs['seconds']:.0f} s")
    return [str(text).strip() for text in answers.predictions]
