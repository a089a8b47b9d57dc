"""Predictions for a file, one text, or texts from Python: with one run, or with several in mixed-task batches."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datasets import Dataset

from peftkit import training
from peftkit.config import FILES, RunConfig, TaskConfig, UserError
from peftkit.config.console import is_main_process, log
from peftkit.config.files import names_file
from peftkit.data.columns import prepare_table, text_columns
from peftkit.data.conversations import unanswered_conversations
from peftkit.data.formats.preferences import PreferenceFormat, combine_preference
from peftkit.data.tables import read_file
from peftkit.pipeline.artifacts import (
    base_source,
    load_bundle,
    load_with,
    run_tokenizer_source,
    with_eval_settings,
    with_generation,
)
from peftkit.pipeline.confidence import choose_threshold, log_coverage, new_columns, with_confidence
from peftkit.pipeline.evaluate import (
    RowPrediction,
    check_reserved_columns,
    decoding_of,
    describe_labels,
    described,
    predict_encoded,
    predictions_file,
    predictor,
    with_predictions,
)
from peftkit.pipeline.examples import score_reference
from peftkit.pipeline.inputs import input_columns, parse_texts, text_table, unlabeled_examples
from peftkit.pipeline.main_process import locked_by_main_process
from peftkit.pipeline.mixing import load_mixed
from peftkit.results.run_result import RunResult
from peftkit.results.tables import write_table

RowPredictions = dict[int, RowPrediction]


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
    with locked_by_main_process(target):
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
    trained = with_generation(config, with_eval_settings(config, run.config))
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
    bundle = load_with(run, trained)
    encoded, without_text = bundle.format.encode(examples), set(empty)
    found, _ = predict_encoded(bundle, predictor(trained, bundle), encoded)
    if encoded.truncated:
        log(f"{encoded.truncated} of {len(table)} rows were truncated to {trained.task.max_length} tokens")
    return {
        row: prediction for row, prediction in enumerate(described(bundle.format, found)) if row not in without_text
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
    """Return the text that the model generates after each prompt."""
    prompts = {row: prompt for row, prompt in enumerate(parse_texts(trained.task, table, name)[0]) if prompt}
    if not prompts:
        return {}
    bundle = load_with(run, trained)
    assert isinstance(bundle.format, PreferenceFormat)
    ids, decoding = bundle.format.prompts([*prompts.values()]), decoding_of(bundle, trained.seed)
    generated, _ = training.generate_answers(predictor(trained, bundle), ids, decoding)
    texts = bundle.tokenizer.batch_decode(generated, skip_special_tokens=True)
    return {row: (text.strip(), None) for row, text in zip(prompts, texts, strict=True)}


def predict_mixed(config: RunConfig, table: Dataset, file: Path) -> tuple[Dataset, str]:
    """Predict for a table whose column `task` selects the run of each row; return it, and the tasks as text.

    Raises:
        UserError: the runs cannot be mixed, or a row has another task or lacks a text.
    """
    runs = _by_task([RunResult.finished(folder) for folder in config.runs or []])
    check_reserved_columns(table, file, ("prediction", "scores", "confidence", "suggestion"))
    mixed = load_mixed(runs, {name: with_eval_settings(config, run.config) for name, run in runs.items()})
    rows = _rows_of(table, [run.config.task for run in runs.values()], file)
    bundles = {name: bundle for name, bundle in mixed.bundles.items() if rows[name]}
    examples = {name: _mixed_examples(bundle.format.task, table, rows[name], file) for name, bundle in bundles.items()}
    encoded = {name: bundle.format.encode(examples[name]) for name, bundle in bundles.items()}
    if truncated := sum(each.truncated for each in encoded.values()):
        log(f"{truncated} of {len(table)} rows were truncated to the task.max_length of their run")
    scores = mixed.scores(encoded, int(config.train.get("per_device_eval_batch_size") or 64))
    predictions: RowPredictions = {}
    for name, bundle in bundles.items():
        found = bundle.format.decode(bundle.format.unpad(scores[name], encoded[name]), encoded[name])
        predictions |= dict(zip(rows[name], described(bundle.format, found), strict=True))
    if len({type(label) for label, _ in predictions.values()}) > 1:  # a column has one type: of names and numbers, text
        predictions = {row: (str(label), each) for row, (label, each) in predictions.items()}
    chosen, threshold = [runs[str(task)] for task in table["task"][:]], choose_threshold(config, None)
    found = with_confidence(with_predictions(table, predictions), chosen, threshold)
    if threshold is not None:
        log_coverage(found, found, None, str(file))
    return found, f" of {', '.join(bundles)}"


def _by_task(runs: Sequence[RunResult]) -> dict[str, RunResult]:
    """Return runs by their task, which the rows name.

    Raises:
        UserError: two runs are of one task.
    """
    found: dict[str, RunResult] = {}
    for run in runs:
        if (name := run.config.task.name) in found:
            raise UserError(f"two runs are of task={name}; use one run per task, or train with another task.name=")
        found[name] = run
    return found


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
