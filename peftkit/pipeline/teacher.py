"""Turn a finished run into a teacher: its scores of a student's training rows, or its answers to them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from peftkit import training
from peftkit.config import RunConfig, UserError, generates_text, is_prompted
from peftkit.data.formats import Encoded
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import answer
from peftkit.pipeline.trainers import predictor
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log


def add_teacher_scores(config: RunConfig, encoded: Encoded, rows: Dataset, names: list[str] | None) -> Encoded:
    """Return encoded training rows with the teacher's scores of the same rows, which it reads in its own way.

    Raises:
        UserError: the teacher tells other labels apart, or reads other columns.
    """
    from peftkit.pipeline.inference import load_bundle, recorded_config, recorded_label_names

    folder = Path(str(config.distill.teacher))
    trained = recorded_config(folder)
    told, wanted = recorded_label_names(folder), names
    if trained.task.kind != config.task.kind or (names is None and trained.model.family == "seq2seq"):
        raise UserError(
            f"{folder} answers {trained.task.kind} as a {trained.model.family}, which teaches no {config.task.kind}; "
            "name a run with a head of this task"
        )
    if told != wanted:
        raise UserError(
            f"the teacher tells {told} apart, task={config.task.name} has {wanted}; name a run of this task"
        )
    if list(trained.task.text) != list(config.task.text):
        raise UserError(
            f"the teacher reads {trained.task.text}, task={config.task.name} has {config.task.text}; name a run of this task"
        )
    log(f"   taught by {trained.method.name} of {trained.model.name}, {folder}")
    bundle = load_bundle(trained, folder)
    asked = bundle.format.encode(rows)
    with predictor(trained, bundle) as trainer:
        scores = training.predict(trainer, asked.inputs, asked.lengths).scores
    if is_prompted(trained):
        scores = answer_scores(bundle, scores, asked)
    return replace(
        encoded, inputs=encoded.inputs.add_column(training.TEACHER_COLUMN, scores.astype("float32").tolist())
    )


def answer_scores(bundle: TrainingBundle, scores: np.ndarray, asked: Encoded) -> np.ndarray:
    """Return what a teacher that nothing trained answers by the scores of its words: classes' (rows, classes), or
    numbers (rows, 1).
    """
    answers = bundle.format.decode(bundle.format.unpad(scores, asked), asked)
    return np.asarray(answers.predictions)[:, None] if bundle.format.names is None else np.stack(answers.scores)


def teacher_answers(config: RunConfig, rows: Dataset, folder: Path) -> tuple[Dataset, dict[str, Any]]:
    """Return training rows answered by the teacher, and their counts (sequence-level: Kim and Rush 2016, section 3.2).

    The teacher writes greedily, in its own way; what it wrote is kept in taught.jsonl, and a run that goes on reads it
    there. A row to which it wrote nothing is dropped, and one whose answer did not end by itself, which would be
    learned as if it did. At `distill.alpha` 0.5 each row with its own label is learned as well.

    Raises:
        UserError: the teacher writes nothing that ends, or reads other columns.
    """
    file = folder / "taught.jsonl"
    lines = _kept(file, rows)
    if lines is None:
        lines = _answers(config, rows)
        if is_main_process():
            run_folder.write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    answers = [line["answer"] for line in lines]
    kept = [number for number, line in enumerate(lines) if line["answer"] and line["has_ended"]]
    empty = sum(not text for text in answers)
    cut = len(rows) - len(kept) - empty
    if not kept:
        raise UserError(
            f"{config.distill.teacher} wrote nothing to {empty} training rows and ended its answers to none of the other "
            f"{cut}; name a run with a longer task.max_target_length, or another teacher"
        )
    taught = rows.select(kept).remove_columns("label").add_column("label", [answers[number] for number in kept])
    taught = taught.cast(rows.features)
    if empty:
        log(f"   {empty} of {len(rows)} rows are dropped, to which the teacher wrote nothing")
    if cut:
        log(f"   {cut} of {len(rows)} rows are dropped, to which the teacher's answer did not end by itself")
    counts = {"asked": len(rows), "empty": empty, "cut": cut, "own_labels": config.distill.alpha != 1}
    return taught if config.distill.alpha == 1 else concatenate_datasets([rows, taught]), counts


def _kept(file: Path, rows: Dataset) -> list[dict[str, Any]] | None:
    """Return the answers that a run which was stopped has kept, None where they are none to these rows."""
    if not file.is_file():
        return None
    # a text may hold U+2028, at which splitlines would break it
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    fits = [line["id"] for line in lines] == list(rows["id"]) and all("has_ended" in line for line in lines)
    return lines if fits else None


def _answers(config: RunConfig, rows: Dataset) -> list[dict[str, Any]]:
    from peftkit.pipeline.inference import load_bundle, recorded_config

    folder = Path(str(config.distill.teacher))
    trained = recorded_config(folder)
    of_turns = {task.kind == "instructions" for task in (trained.task, config.task)}
    if not generates_text(trained.task) or len(of_turns) > 1:
        raise UserError(
            f"{folder} answers {trained.task.kind}, which teaches no {config.task.kind}; name a run that writes"
        )
    if list(trained.task.text) != list(config.task.text):
        raise UserError(
            f"the teacher reads {trained.task.text}, task={config.task.name} has {config.task.text}; name a run of this task"
        )
    log(f"   taught by {trained.method.name} of {trained.model.name}, {folder}")
    bundle = load_bundle(trained, folder)
    with predictor(trained, bundle) as trainer:
        answers, costs = answer(bundle, trainer, bundle.format.encode(rows))
    log(f"   it answered {len(rows)} rows in {costs['seconds']:.0f} s")
    assert answers.has_ended is not None  # what a model that writes says
    each = zip(rows["id"], answers.predictions, answers.has_ended, strict=True)
    return [{"id": row, "answer": str(text).strip(), "has_ended": ended} for row, text, ended in each]
