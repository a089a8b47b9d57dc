"""Distillation from a finished run: its scores of a student's training examples, or the text it generates for them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from peftkit import training
from peftkit.config import RunConfig, UserError, generates_text, is_prompted, kind_of, refuse
from peftkit.data.formats import Encoded
from peftkit.pipeline.artifacts import load_bundle
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import predict_encoded, predictor
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log
from peftkit.results.run_result import RunResult


def add_teacher_scores(config: RunConfig, encoded: Encoded, rows: Dataset, names: list[str] | None) -> Encoded:
    """Return encoded training examples with the teacher's scores of them; the teacher encodes them by its own format.

    Raises:
        UserError: the teacher has other labels, or reads other columns.
    """
    trained, bundle = _load_teacher(config, names)
    inputs = bundle.format.encode(rows)
    scores = training.predict_scores(predictor(trained, bundle), inputs.inputs, inputs.lengths).scores
    if is_prompted(trained):
        scores = label_scores(bundle, scores, inputs)
    return replace(
        encoded, inputs=encoded.inputs.add_column(training.TEACHER_COLUMN, scores.astype("float32").tolist())
    )


def _load_teacher(config: RunConfig, names: list[str] | None = None) -> tuple[RunConfig, TrainingBundle]:
    """Return the config and the model of the run that teaches.

    Args:
        names: the labels of the student's task, None where it has none.

    Raises:
        UserError: the teacher answers another kind of task, has other labels, or reads other columns.
    """
    teacher, student = RunResult.finished(config.distill.teacher), config.task
    trained, labels = teacher.config, teacher.label_names
    of_turns = {kind_of(task).chat_template for task in (trained.task, student)}
    kind, needed = trained.task.kind, "use a run that generates text"
    is_other = not generates_text(trained.task) or len(of_turns) > 1
    if not generates_text(student):
        is_other = kind != student.kind or (names is None and trained.model.family == "seq2seq")
        kind, needed = f"{kind} as a {trained.model.family}", "name a run with a head of this task"
    this = "set distill.teacher= to a run of this task"
    refuse(
        (is_other, f"{teacher.folder} answers {kind}, which teaches no {student.kind}; {needed}"),
        (labels != names, f"the teacher has labels {labels}, task={student.name} has {names}; {this}"),
        (
            list(trained.task.text) != list(student.text),
            f"the teacher reads {trained.task.text}, task={student.name} has {student.text}; {this}",
        ),
    )
    log(f"   taught by {trained.method.name} of {trained.model.name}, {teacher.folder}")
    return trained, load_bundle(teacher)


def label_scores(bundle: TrainingBundle, scores: np.ndarray, encoded: Encoded) -> np.ndarray:
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
    lines = _stored_answers(file, rows)
    if lines is None:
        trained, bundle = _load_teacher(config)
        answers, costs = predict_encoded(bundle, predictor(trained, bundle), bundle.format.encode(rows))
        log(f"   it answered {len(rows)} examples in {costs['seconds']:.0f} s")
        assert answers.has_ended is not None  # set for generated text
        each = zip(rows["id"], answers.predictions, answers.has_ended, strict=True)
        lines = [{"id": row, "answer": str(text).strip(), "has_ended": ended} for row, text, ended in each]
        if is_main_process():
            run_folder.write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    kept = [number for number, line in enumerate(lines) if line["answer"] and line["has_ended"]]
    empty = sum(not line["answer"] for line in lines)
    cut = len(rows) - len(kept) - empty
    if not kept:
        raise UserError(
            f"{config.distill.teacher} generated no text for {empty} training examples and "
            f"ended its answers to none of the other {cut}; use a run with a longer task.max_target_length"
        )
    texts = [lines[number]["answer"] for number in kept]
    taught = rows.select(kept).remove_columns("label").add_column("label", texts).cast(rows.features)
    for count, why in ((empty, " generated no text"), (cut, "'s answer was cut at its length limit")):
        if count:
            log(f"   {count} of {len(rows)} examples are dropped: the teacher{why}")
    counts = {"examples": len(rows), "empty": empty, "cut": cut, "own_labels": config.distill.alpha != 1}
    return taught if config.distill.alpha == 1 else concatenate_datasets([rows, taught]), counts


def _stored_answers(file: Path, rows: Dataset) -> list[dict[str, Any]] | None:
    """Return the answers that an interrupted run stored, None where they belong to other examples."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    lines = [json.loads(line) for line in text.split("\n") if line]  # splitlines would break a text with U+2028
    fits = [line["id"] for line in lines] == list(rows["id"]) and all("has_ended" in line for line in lines)
    return lines if fits else None
