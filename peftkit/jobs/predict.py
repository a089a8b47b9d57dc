"""Predictions for a file, one text, or texts from Python: with one run, or with several in mixed-task batches."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit import training
from peftkit.config import FILES, RunConfig, TaskConfig, UserError, kind_of, refuse
from peftkit.config.console import is_main_process, log
from peftkit.config.files import names_file
from peftkit.data.columns import prepare_table, text_columns
from peftkit.data.conversations import unanswered_conversations
from peftkit.data.formats import Encoded, format_of
from peftkit.data.formats.preferences import PreferenceFormat, combine_preference
from peftkit.data.tables import read_file
from peftkit.methods import load_adapters
from peftkit.models.load import load_model
from peftkit.pipeline.artifacts import (
    base_source,
    load_bundle,
    run_tokenizer_source,
    with_eval_batch_size,
)
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.confidence import choose_threshold, log_coverage, new_columns, with_confidence
from peftkit.pipeline.evaluate import (
    check_reserved_columns,
    describe_labels,
    predict_encoded,
    predictions_file,
    predictor,
    with_predictions,
)
from peftkit.pipeline.examples import score_reference
from peftkit.pipeline.inputs import input_columns, parse_texts, text_table, unlabeled_examples
from peftkit.pipeline.sources import run_tokenizer
from peftkit.results.locks import locked_file
from peftkit.results.run_result import RunResult
from peftkit.results.tables import write_table

RowPredictions = dict[int, tuple[Any, Any]]  # row of the table: prediction, scores


def predict(config: RunConfig) -> None:
    """Predict for the rows of a file or for one text, and write or print them with predictions and scores.

    With several runs, the column `task` selects the run of each row.
    """
    given, is_file = Path(str(config.input)), names_file(str(config.input), FILES)
    if not is_file and not config.output:
        table, _ = _predicted(config, given, is_file)
        if is_main_process():
            print(json.dumps(table[0], ensure_ascii=False))
        return
    target = predictions_file(config, given)
    with locked_file(target):
        table, of = _predicted(config, given, is_file)
        if is_main_process():
            write_table(table, target)
            log(f"{len(table)} rows{of} -> {target}")


def _predicted(config: RunConfig, given: Path, is_file: bool) -> tuple[Dataset, str]:
    """Return the table with its predictions, and the tasks of several runs as text."""
    of = ""
    if config.runs:
        table, of = predict_mixed(config, read_file(given), given)
    else:
        task = RunResult.finished(config.run).config.task
        table = read_file(given) if is_file else text_table(task, [str(config.input)])
        table, empty = predict_table(config, table, str(given))
        if empty:
            log(f"{empty} of {len(table)} rows have no text and get no prediction")
    return table, of


def predict_table(config: RunConfig, table: Dataset, name: str) -> tuple[Dataset, int]:
    """Return the table with columns prediction and scores, and the number of rows without text, which have neither.

    Args:
        name: of the table, for messages.

    Raises:
        UserError: columns are missing, or the table has columns of the new names.
    """
    run = RunResult.finished(config.run)
    trained = with_eval_batch_size(config, run.config)
    task, is_preference = trained.task, trained.task.kind == "preferences"
    rows, columns = prepare_table(replace(task, id=None), table, name), text_columns(task)
    read = zip(input_columns(task), columns, strict=False)
    if missing := [column for column, known in read if known not in rows.column_names]:
        raise UserError(f"{name} lacks the columns {describe_labels(missing)} that the run reads; rename its columns")
    check_reserved_columns(table, Path(name), new_columns(run))
    threshold = choose_threshold(config, run)
    if is_preference and set(columns) <= set(rows.column_names):
        predictions = _margins(run, trained, rows, name)
    elif is_preference:
        predictions = _generated(run, trained, rows, name)
    else:
        predictions = _predictions(run, trained, rows, name)
    found = with_confidence(with_predictions(table, predictions), [run] * len(table), threshold, run.label_names)
    if threshold is not None:
        log_coverage(found, rows, run, name)
    return found, len(table) - len(predictions)


def _predictions(run: RunResult, trained: RunConfig, table: Dataset, name: str) -> RowPredictions:
    if trained.task.kind == "instructions":
        examples, empty, answered = unanswered_conversations(trained.task, table, name)
        if answered:
            log(f"{answered} of {len(table)} conversations end with an answer, which is dropped and generated again")
    else:
        examples = unlabeled_examples(trained.task, table, range(len(table)), name)
        texts = zip(*(examples[column] for column in text_columns(trained.task)), strict=True)
        empty = [row for row, each in enumerate(texts) if not all(each)]
    bundle = load_bundle(run)
    encoded, without_text = bundle.format.encode(examples), set(empty)
    found, _ = predict_encoded(bundle, predictor(trained, bundle), encoded)
    if encoded.truncated:
        log(f"{encoded.truncated} of {len(table)} rows were truncated to {trained.task.max_length} tokens")
    return {
        row: (bundle.format.describe(prediction), scores.astype(float).tolist() or None)
        for row, (prediction, scores) in enumerate(zip(found.predictions, found.scores, strict=True))
        if row not in without_text
    }


def _margins(run: RunResult, trained: RunConfig, table: Dataset, name: str) -> RowPredictions:
    """Return the margin of each pair of answers, and the rewards of both."""
    columns = text_columns(trained.task)
    pairs = [combine_preference(texts, name) for texts in zip(*parse_texts(trained.task, table, name), strict=True)]
    rows = [row for row, pair in enumerate(pairs) if all(pair)]
    if not rows:
        return {}
    complete = Dataset.from_list([dict(zip(columns, pairs[row], strict=True)) for row in rows])
    reference = score_reference(trained, base_source(run), {"rows": complete}, run_tokenizer_source(run))
    bundle = load_bundle(run)
    encoded = reference.add_likelihoods("rows", bundle.format.encode(complete))
    found, _ = predict_encoded(bundle, predictor(trained, bundle), encoded)
    if encoded.truncated:
        log(f"{encoded.truncated} of {len(rows)} pairs were truncated")
    return {
        row: (float(margin), scores[:2].tolist())
        for row, margin, scores in zip(rows, found.predictions, found.scores, strict=True)
    }


def _generated(run: RunResult, trained: RunConfig, table: Dataset, name: str) -> RowPredictions:
    """Return the text that the model generates after each prompt, by greedy decoding."""
    prompts = {row: prompt for row, prompt in enumerate(parse_texts(trained.task, table, name)[0]) if prompt}
    if not prompts:
        return {}
    bundle = load_bundle(run)
    assert isinstance(bundle.format, PreferenceFormat)
    ids, tokenizer = bundle.format.prompts([*prompts.values()]), bundle.tokenizer
    generated, _ = training.generate_greedily(
        predictor(trained, bundle), ids, tokenizer.pad_token_id, bundle.format.max_answer_tokens, tokenizer.eos_token_id
    )
    texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
    return {row: (text.strip(), None) for row, text in zip(prompts, texts, strict=True)}


def predict_mixed(config: RunConfig, table: Dataset, file: Path) -> tuple[Dataset, str]:
    """Predict for a table whose column `task` selects the run of each row; return it, and the tasks as text.

    Raises:
        UserError: the runs cannot be mixed, or a row has another task or lacks a text.
    """
    runs = [RunResult.finished(folder) for folder in config.runs or []]
    check_reserved_columns(table, file, ("prediction", "scores", "confidence", "suggestion"))
    bundles = _mixed_bundles(runs)
    rows = _rows_of(table, [run.config.task for run in runs], file)
    bundles = {name: bundle for name, bundle in bundles.items() if rows[name]}
    examples = {name: _mixed_examples(bundle.format.task, table, rows[name], file) for name, bundle in bundles.items()}
    encoded = {name: bundle.format.encode(examples[name]) for name, bundle in bundles.items()}
    if truncated := sum(each.truncated for each in encoded.values()):
        log(f"{truncated} of {len(table)} rows were truncated to the task.max_length of their run")
    scores = _mixed_scores(
        {run.config.task.name: run.config for run in runs},
        bundles,
        encoded,
        int(config.train.get("per_device_eval_batch_size") or 64),
    )
    predictions: RowPredictions = {}
    for name, bundle in bundles.items():
        found = bundle.format.decode(bundle.format.unpad(scores[name], encoded[name]), encoded[name])
        for row, prediction, each in zip(rows[name], found.predictions, found.scores, strict=True):
            predictions[row] = bundle.format.describe(prediction), each.astype(float).tolist()
    if len({type(label) for label, _ in predictions.values()}) > 1:  # a column has one type: of names and numbers, text
        predictions = {row: (str(label), each) for row, (label, each) in predictions.items()}
    run_of, threshold = {run.config.task.name: run for run in runs}, choose_threshold(config, None)
    chosen = [run_of[str(task)] for task in table["task"][:]]
    found = with_confidence(with_predictions(table, predictions), chosen, threshold)
    if threshold is not None:
        log_coverage(found, found, None, str(file))
    return found, f" of {', '.join(bundles)}"


def _mixed_examples(task: TaskConfig, table: Dataset, rows: Sequence[int], file: Path) -> Dataset:
    """Return the rows of one task as examples.

    Raises:
        UserError: a row lacks a text.
    """
    examples = unlabeled_examples(task, prepare_table(replace(task, id=None), table, str(file)), rows, str(file))
    for row, texts in zip(rows, zip(*(examples[name] for name in text_columns(task)), strict=True), strict=True):
        if missing := [column for column, text in zip(task.text, texts, strict=True) if not text]:
            raise UserError(f"row {row + 1} of {file} is of task {task.name} and lacks {', '.join(missing)}")
    return examples


def _mixed_bundles(runs: Sequence[RunResult]) -> dict[str, TrainingBundle]:
    """Return the bundle of each run by its task, all with one model: a base, and an adapter named after each task."""
    _check_mix(runs)
    first, source = runs[0].config, base_source(runs[0])
    tokenizer = run_tokenizer(first, source, source)
    most = max(len(run.label_names or [0]) for run in runs)
    head = [str(number) for number in range(most)] if most > 1 else None  # a smaller head uses a part of it
    base = load_model(first.model, source, tokenizer, "classification", head, first.method.quantization)
    model = load_adapters(base, {run.config.task.name: run.folder / "adapter" for run in runs}).eval()
    return {
        run.config.task.name: TrainingBundle(
            model, tokenizer, format_of(run.config.task, run.config.model.family, run.label_names, tokenizer)
        )
        for run in runs
    }


def _check_mix(runs: Sequence[RunResult]) -> None:
    bases = [(run.source, run.config.model.pooling, run.config.method.quantization) for run in runs]
    tasks: set[str] = set()
    for run, base in zip(runs, bases, strict=True):
        folder, config = run.folder, run.config
        refuse(
            (
                not kind_of(config.task).sequence_label or config.model.family == "seq2seq",
                f"{folder} has no classification head; only classifiers and regressors can be mixed: use run=",
            ),
            (
                not (folder / "adapter").is_dir() or not config.method.traits.mixed_batch,
                f"{folder} is {config.method.name}, whose weights are the same for all examples of a batch; "
                "mix runs of methods with the trait mixed_batch, such as lora",
            ),
            (
                config.vocab is not None,
                f"{folder} has tokens that the base lacks (vocab=); use run= for each run",
            ),
            (base != bases[0], f"{folder} has another base than {runs[0].folder}; mix runs on one base"),
            (
                config.task.name in tasks,
                f"two runs are of task={config.task.name}; use one run per task, or train with another task.name=",
            ),
        )
        tasks.add(config.task.name)


def _rows_of(table: Dataset, tasks: Sequence[TaskConfig], file: Path) -> dict[str, list[int]]:
    """Return the row numbers of each task."""
    if "task" not in table.column_names:
        raise UserError(f"{file} has no column task; add it with the task of each row")
    by_name = {task.name: task for task in tasks}
    rows: dict[str, list[int]] = {name: [] for name in by_name}
    for number, row in enumerate(table):
        name, position = str(row["task"]), f"row {number + 1} of {file} is of task {row['task']}"
        if name not in rows:
            raise UserError(f"{position}; the runs are of {', '.join(rows)}")
        rows[name].append(number)
    return rows


def _mixed_scores(
    runs: Mapping[str, RunConfig], bundles: Mapping[str, TrainingBundle], encoded: Mapping[str, Encoded], size: int
) -> dict[str, np.ndarray]:
    """Return the scores (rows, labels) of each task, in its run's precision; batches are grouped only by length."""
    label_counts = {name: len(bundle.format.names or [0]) for name, bundle in bundles.items()}
    found = {name: np.empty((len(each.lengths), label_counts[name])) for name, each in encoded.items()}
    precisions = {name: training.precision_of(runs[name].train) for name in bundles}
    for precision in dict.fromkeys(precisions.values()):
        tasks = [name for name in bundles if precisions[name] == precision]
        collate = bundles[tasks[0]].format.collator()
        trainer = predictor(runs[tasks[0]], bundles[tasks[0]])
        rows = [(name, number) for name in tasks for number in range(len(encoded[name].lengths))]
        rows.sort(key=lambda row: -encoded[row[0]].lengths[row[1]])
        for first in range(0, len(rows), size):
            batch = rows[first : first + size]
            inputs = [
                {key: value for key, value in encoded[name].inputs[number].items() if key != "labels"}
                for name, number in batch
            ]
            scores = training.mixed_batch_logits(trainer, collate(inputs), [name for name, _ in batch])
            for (name, number), row in zip(batch, scores, strict=True):
                found[name][number] = row[: label_counts[name]]
    return found
