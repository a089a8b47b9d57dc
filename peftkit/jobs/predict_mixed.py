"""Prediction with several adapters over one base, in batches that mix their tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit import training
from peftkit.config import RunConfig, UserError
from peftkit.data.datasets import example_reader
from peftkit.data.files import read_file
from peftkit.data.formats import Encoded, format_of
from peftkit.methods import load_adapters
from peftkit.models.load import load_model, load_tokenizer
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.inference import base_source, recorded_config, recorded_label_names, recorded_source
from peftkit.pipeline.prediction_files import answer_table, answers_file, check_reserved_columns, write_table
from peftkit.pipeline.trainers import predictor
from peftkit.results.console import is_main_process, log

HEADS = ("classification", "regression")


def predict_mixed(config: RunConfig) -> None:
    """Predict for a file whose column `task` names the run of each example; batches mix all tasks."""
    folders = [Path(folder) for folder in config.runs or []]
    runs = [recorded_config(folder) for folder in folders]
    table = read_file(Path(str(config.input)))
    check_reserved_columns(table, Path(str(config.input)))
    bundle = load_mixed(runs, folders)
    rows = _rows_of(table, runs, Path(str(config.input)))
    bundle = {name: part for name, part in bundle.items() if rows[name]}
    encoded = {name: part.format.encode(_rows(table, rows[name], part)) for name, part in bundle.items()}
    if cut := sum(each.truncated for each in encoded.values()):
        log(f"{cut} of {len(table)} rows were longer than their run's task.max_length and were cut")
    size = int(config.train.get("per_device_eval_batch_size") or 64)
    scores = _scores({each.task.name: each for each in runs}, bundle, encoded, size)
    labels: list[Any] = [None] * len(table)
    found: list[Any] = [None] * len(table)
    for name, part in bundle.items():
        answers = part.format.decode(part.format.unpad(scores[name], encoded[name]), encoded[name])
        for row, prediction, score in zip(rows[name], answers.predictions, answers.scores, strict=True):
            labels[row], found[row] = part.format.describe(prediction), score.astype(float).tolist()
    if len({type(label) for label in labels}) > 1:  # a column has one type: numbers beside names are text
        labels = [str(label) for label in labels]
    out = answer_table(table, labels, found)
    if is_main_process():
        given = Path(str(config.input))
        target = answers_file(config, given)
        write_table(out, target)
        log(f"{len(table)} rows of {', '.join(bundle)} -> {target}")


def load_mixed(runs: Sequence[RunConfig], folders: Sequence[Path]) -> dict[str, TrainingBundle]:
    """Return the parts of each run by its task, all with one model: a base, and an adapter named after each task.

    Raises:
        UserError: the runs do not fit together.
    """
    _check(runs, folders)
    names = [recorded_label_names(folder) for folder in folders]
    source = base_source(runs[0], folders[0])
    tokenizer = load_tokenizer(source)
    most = max(len(each or [0]) for each in names)
    head = [str(number) for number in range(most)] if most > 1 else None  # a smaller head fills a part of it
    base = load_model(runs[0].model, source, tokenizer, "classification", head, runs[0].method.quantization)
    model = load_adapters(
        base, {config.task.name: folder / "adapter" for config, folder in zip(runs, folders, strict=True)}
    )
    model.eval()
    return {
        config.task.name: TrainingBundle(model, tokenizer, format_of(config.task, config.model.family, each, tokenizer))
        for config, each in zip(runs, names, strict=True)
    }


def _check(runs: Sequence[RunConfig], folders: Sequence[Path]) -> None:
    first = runs[0]
    for config, folder in zip(runs, folders, strict=True):
        if config.task.kind not in HEADS or config.model.family == "seq2seq":
            raise UserError(f"{folder} has no classification head; batches mix classifiers and regressors: use run=")
        if not (folder / "adapter").is_dir() or not config.method.traits.mixed_batch:
            raise UserError(
                f"{folder} is {config.method.name}, whose weights cannot differ from row to row; "
                "mix runs of lora, adapter, prompt, p_tuning, prefix, mam or unipelt"
            )
        if config.vocab is not None:
            raise UserError(f"{folder} has words that the base has not (vocab=); use run=, one after the other")
        base = (recorded_source(folder), config.model.pooling, config.method.quantization)
        if base != (recorded_source(folders[0]), first.model.pooling, first.method.quantization):
            raise UserError(f"{folder} has another base than {folders[0]}; mix runs over one base")
    tasks = [config.task.name for config in runs]
    if twice := [name for number, name in enumerate(tasks) if name in tasks[:number]]:
        raise UserError(
            f"two of the runs are of task={twice[0]}; name one a task, or train with a task.name= of its own"
        )


def _rows_of(table: Dataset, runs: Sequence[RunConfig], file: Path) -> dict[str, list[int]]:
    """Return the numbers of the rows of each task."""
    if "task" not in table.column_names:
        raise UserError(f"{file} has no column task; write into it which run's task each row is for")
    rows: dict[str, list[int]] = {config.task.name: [] for config in runs}
    columns, run_of = (
        {config.task.name: list(config.task.text) for config in runs},
        {config.task.name: config for config in runs},
    )
    for number, row in enumerate(table):
        name = str(row["task"])
        if name not in rows:
            raise UserError(f"row {number + 1} of {file} is of task {name}; the runs are of {', '.join(rows)}")
        if missing := [
            column for column in columns[name] if not example_reader(run_of[name].task).parse_text(row.get(column))
        ]:
            raise UserError(f"row {number + 1} of {file} is of task {name} and lacks {', '.join(missing)}")
        rows[name].append(number)
    return rows


def _rows(table: Dataset, numbers: list[int], bundle: TrainingBundle) -> Dataset:
    task = bundle.format.task
    texts = {
        column: [example_reader(task).parse_text(table[number][column]) for number in numbers] for column in task.text
    }
    return Dataset.from_dict({"id": numbers, **texts, "label": [None] * len(numbers)})


def _scores(
    runs: dict[str, RunConfig], bundle: dict[str, TrainingBundle], encoded: dict[str, Encoded], size: int
) -> dict[str, np.ndarray]:
    """Return the scores (rows, labels) of each task's rows, in its run's precision; batches go by length alone."""
    widths = {name: len(part.format.names or [0]) for name, part in bundle.items()}
    found = {name: np.empty((len(each.lengths), widths[name])) for name, each in encoded.items()}
    precisions = {name: training.precision_of(runs[name].train) for name in bundle}
    for precision in dict.fromkeys(precisions.values()):
        tasks = [name for name in bundle if precisions[name] == precision]
        collate = bundle[tasks[0]].format.collator()
        with predictor(runs[tasks[0]], bundle[tasks[0]]) as trainer:
            for batch in _batches({name: encoded[name].lengths for name in tasks}, size):
                inputs = [encoded[name].inputs[number] for name, number in batch]
                inputs = [{key: value for key, value in row.items() if key != "labels"} for row in inputs]
                scores = training.mixed_batch_logits(trainer, collate(inputs), [name for name, _ in batch])
                for (name, number), row in zip(batch, scores, strict=True):
                    found[name][number] = row[: widths[name]]
    return found


def _batches(lengths: Mapping[str, Any], size: int) -> Iterator[list[tuple[str, int]]]:
    """Yield the task and the number of each row, a batch at a time, the longest first."""
    rows = [(name, number) for name, each in lengths.items() for number in range(len(each))]
    rows.sort(key=lambda row: -lengths[row[0]][row[1]])
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
