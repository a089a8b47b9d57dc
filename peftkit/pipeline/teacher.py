"""Distillation from a finished run: its scores of a student's training examples, or the text it generates for them."""

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
from peftkit.pipeline.inference import load_bundle
from peftkit.pipeline.trainers import predictor
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log
from peftkit.results.run_result import RunResult


def add_teacher_scores(config: RunConfig, encoded: Encoded, rows: Dataset, names: list[str] | None) -> Encoded:
    """Return encoded training examples with the teacher's scores of them; the teacher encodes them by its own format.

    Raises:
        UserError: the teacher has other labels, or reads other columns.
    """
    teacher = RunResult.finished(config.distill.teacher)
    trained, labels = teacher.config, teacher.label_names
    if trained.task.kind != config.task.kind or (names is None and trained.model.family == "seq2seq"):
        raise UserError(
            f"{teacher.folder} answers {trained.task.kind} as a {trained.model.family}, which teaches no "
            f"{config.task.kind}; name a run with a head of this task"
        )
    if labels != names:
        raise UserError(
            f"the teacher has labels {labels}, task={config.task.name} has {names}; "
            "set distill.teacher= to a run of this task"
        )
    _check_columns(config, trained)
    log(f"   taught by {trained.method.name} of {trained.model.name}, {teacher.folder}")
    bundle = load_bundle(teacher)
    inputs = bundle.format.encode(rows)
    with predictor(trained, bundle) as trainer:
        scores = training.predict(trainer, inputs.inputs, inputs.lengths).scores
    if is_prompted(trained):
        scores = answer_scores(bundle, scores, inputs)
    return replace(
        encoded, inputs=encoded.inputs.add_column(training.TEACHER_COLUMN, scores.astype("float32").tolist())
    )


def _check_columns(config: RunConfig, trained: RunConfig) -> None:
    if list(trained.task.text) != list(config.task.text):
        raise UserError(
            f"the teacher reads {trained.task.text}, task={config.task.name} has {config.task.text}; "
            "set distill.teacher= to a run of this task"
        )


def answer_scores(bundle: TrainingBundle, scores: np.ndarray, encoded: Encoded) -> np.ndarray:
    """Return a prompted teacher's scores of its labels: (examples, classes), or numbers (examples, 1)."""
    answers = bundle.format.decode(bundle.format.unpad(scores, encoded), encoded)
    return np.asarray(answers.predictions)[:, None] if bundle.format.names is None else np.stack(answers.scores)


def teacher_answers(config: RunConfig, rows: Dataset, folder: Path) -> tuple[Dataset, dict[str, Any]]:
    """Return training examples labelled by the teacher, and counts (sequence-level: Kim and Rush 2016, section 3.2).

    The teacher generates greedily, from its own prompt; its text is stored in taught.jsonl, which a resumed run reads.
    Examples with an empty answer are dropped, and those whose answer was cut: the student would learn that it ends
    there. At `distill.alpha` 0.5 each example with its own label is trained on as well.

    Raises:
        UserError: no answer of the teacher ends, or it reads other columns.
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
            f"{config.distill.teacher} generated no text for {empty} training examples and "
            f"ended its answers to none of the other {cut}; use a run with a longer task.max_target_length"
        )
    taught = rows.select(kept).remove_columns("label").add_column("label", [answers[number] for number in kept])
    taught = taught.cast(rows.features)
    if empty:
        log(f"   {empty} of {len(rows)} examples are dropped: the teacher generated no text")
    if cut:
        log(f"   {cut} of {len(rows)} examples are dropped: the teacher's answer was cut at its length limit")
    counts = {"examples": len(rows), "empty": empty, "cut": cut, "own_labels": config.distill.alpha != 1}
    return taught if config.distill.alpha == 1 else concatenate_datasets([rows, taught]), counts


def _kept(file: Path, rows: Dataset) -> list[dict[str, Any]] | None:
    """Return the answers that an interrupted run stored, None where they belong to other examples."""
    if not file.is_file():
        return None
    # a text may hold U+2028, at which splitlines would break it
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    fits = [line["id"] for line in lines] == list(rows["id"]) and all("has_ended" in line for line in lines)
    return lines if fits else None


def _answers(config: RunConfig, rows: Dataset) -> list[dict[str, Any]]:
    teacher = RunResult.finished(config.distill.teacher)
    trained = teacher.config
    of_turns = {task.kind == "instructions" for task in (trained.task, config.task)}
    if not generates_text(trained.task) or len(of_turns) > 1:
        raise UserError(
            f"{teacher.folder} answers {trained.task.kind}, which teaches no {config.task.kind}; "
            "use a run that generates text"
        )
    _check_columns(config, trained)
    log(f"   taught by {trained.method.name} of {trained.model.name}, {teacher.folder}")
    bundle = load_bundle(teacher)
    with predictor(trained, bundle) as trainer:
        answers, costs = answer(bundle, trainer, bundle.format.encode(rows))
    log(f"   it answered {len(rows)} examples in {costs['seconds']:.0f} s")
    assert answers.has_ended is not None  # set for generated text
    each = zip(rows["id"], answers.predictions, answers.has_ended, strict=True)
    return [{"id": row, "answer": str(text).strip(), "has_ended": ended} for row, text, ended in each]
