"""Distillation from a finished run: its scores of the student's training examples, or text that it generates."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, List, concatenate_datasets

from peftkit import training
from peftkit.config import RunConfig, UserError, generates_text, is_prompted, kind_of, refuse
from peftkit.config.console import is_main_process, log
from peftkit.data.formats import Encoded
from peftkit.pipeline.artifacts import load_bundle
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import predict_encoded, predictor
from peftkit.results import run_folder
from peftkit.results.run_result import RunResult


def add_teacher_scores(config: RunConfig, encoded: Encoded, examples: Dataset, names: list[str] | None) -> Encoded:
    """Return encoded training examples with the teacher's scores; the teacher encodes them with its own format.

    Raises:
        UserError: the labels or the columns of the teacher differ.
    """
    trained, bundle = _load_teacher(config, names)
    inputs = bundle.format.encode(examples)
    scores = training.predict_scores(predictor(trained, bundle), inputs.inputs, inputs.lengths).scores
    if is_prompted(trained):
        scores = label_scores(bundle, scores, inputs)
    return replace(
        encoded, inputs=encoded.inputs.add_column(training.TEACHER_COLUMN, scores.astype("float32").tolist())
    )


def _load_teacher(config: RunConfig, names: list[str] | None = None) -> tuple[RunConfig, TrainingBundle]:
    """Return the config and the model of the teacher.

    Args:
        names: the labels of the student's task, None where it has none.

    Raises:
        UserError: the teacher cannot label this kind of task, or its labels or columns differ.
    """
    teacher, student = RunResult.finished(config.distill.teacher), config.task
    trained, labels = teacher.config, teacher.label_names
    templates = {kind_of(task).chat_template for task in (trained.task, student)}
    kind, needed = trained.task.kind, "use a run that generates text"
    is_other = not generates_text(trained.task) or len(templates) > 1
    if not generates_text(student):
        is_other = kind != student.kind or (names is None and trained.model.family == "seq2seq")
        kind, needed = f"{kind} as a {trained.model.family}", "use a run with a head of this task"
    this = "set distill.teacher= to a run of this task"
    refuse(
        (is_other, f"{teacher.folder} was trained on {kind}, which cannot label {student.kind}; {needed}"),
        (labels != names, f"the teacher has labels {labels}, task={student.name} has {names}; {this}"),
        (
            list(trained.task.text) != list(student.text),
            f"the teacher reads {trained.task.text}, task={student.name} has {student.text}; {this}",
        ),
    )
    log(f"   teacher: {trained.method.name} of {trained.model.name}, {teacher.folder}")
    return trained, load_bundle(teacher)


def label_scores(bundle: TrainingBundle, scores: np.ndarray, encoded: Encoded) -> np.ndarray:
    """Return a prompted teacher's scores of its labels: (examples, classes), or numbers (examples, 1)."""
    answers = bundle.format.decode(bundle.format.unpad(scores, encoded), encoded)
    return np.asarray(answers.predictions)[:, None] if bundle.format.names is None else np.stack(answers.scores)


def teacher_answers(config: RunConfig, examples: Dataset, folder: Path) -> tuple[Dataset, dict[str, Any]]:
    """Return training examples labeled by the teacher, and counts (sequence-level: Kim and Rush 2016, section 3.2).

    The teacher generates greedily from its own prompt; its text is stored in taught.jsonl, which a resumed run reads.
    Examples with empty or truncated answers are dropped: the student would learn to stop at the truncation. With
    `distill.alpha` 0.5 the examples with their own labels are used as well.

    Raises:
        UserError: every answer of the teacher is empty or truncated, or its columns differ.
    """
    file = folder / "taught.jsonl"
    lines = _stored_answers(file, examples)
    if lines is None:
        trained, bundle = _load_teacher(config)
        answers, costs = predict_encoded(bundle, predictor(trained, bundle), bundle.format.encode(examples))
        log(f"   the teacher labeled {len(examples)} examples in {costs['seconds']:.0f} s")
        assert answers.has_ended is not None  # set for generated text
        each = zip(examples["id"], answers.predictions, answers.has_ended, strict=True)
        lines = [{"id": row, "answer": str(text).strip(), "has_ended": ended} for row, text, ended in each]
        if is_main_process():
            run_folder.write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    kept = [number for number, line in enumerate(lines) if line["answer"] and line["has_ended"]]
    empty = sum(not line["answer"] for line in lines)
    cut = len(examples) - len(kept) - empty
    if not kept:
        raise UserError(
            f"{config.distill.teacher} generated no text for {empty} training examples and "
            f"truncated answers for the other {cut}; use a run with a longer task.max_target_length"
        )
    has_lists = isinstance(examples.features["label"], List)  # several references
    texts = [[lines[number]["answer"]] if has_lists else lines[number]["answer"] for number in kept]
    labeled = examples.select(kept).remove_columns("label").add_column("label", texts).cast(examples.features)
    for count, why in ((empty, " generated no text"), (cut, "'s answer was truncated at its length limit")):
        if count:
            log(f"   {count} of {len(examples)} examples are dropped: the teacher{why}")
    counts = {"examples": len(examples), "empty": empty, "cut": cut, "own_labels": config.distill.alpha != 1}
    return labeled if config.distill.alpha == 1 else concatenate_datasets([examples, labeled]), counts


def _stored_answers(file: Path, examples: Dataset) -> list[dict[str, Any]] | None:
    """Return the answers that an interrupted run stored, None if they are not for these examples."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    lines = [json.loads(line) for line in text.split("\n") if line]  # splitlines would break a text with U+2028
    fits = [line["id"] for line in lines] == list(examples["id"]) and all("has_ended" in line for line in lines)
    return lines if fits else None
