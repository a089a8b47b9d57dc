"""Predict with a finished run: label a file or one text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from peftkit import training
from peftkit.config import FILES, RunConfig, TaskConfig, UserError
from peftkit.data.conversations import open_conversations
from peftkit.data.datasets import example_reader
from peftkit.data.files import read_file
from peftkit.data.formats.preferences import PreferenceFormat
from peftkit.data.preference_pairs import parse_preference, parse_prompt
from peftkit.jobs.predict_mixed import predict_mixed
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import answer
from peftkit.pipeline.inference import (
    base_source,
    join_names,
    load_bundle,
    recorded_config,
    run_tokenizer_source,
    with_eval_batch_size,
)
from peftkit.pipeline.prediction_files import answer_table, answers_file, check_reserved_columns, write_table
from peftkit.pipeline.reference import score_reference
from peftkit.pipeline.trainers import predictor
from peftkit.results.console import is_main_process, log

PAIR = "||"  # between two texts of one input


def predict(config: RunConfig) -> None:
    """Label the rows of a file, or one text, and print or write text, prediction and scores."""
    if config.runs:
        predict_mixed(config)
        return
    folder = Path(str(config.run))
    trained = recorded_config(folder)
    columns = list(trained.task.text)
    given = Path(str(config.input))
    is_file = given.suffix in FILES
    if is_file and not given.is_file():
        raise UserError(f"there is no file {given}; name one, or write the text itself: input='a fine film'")
    if trained.task.kind == "preferences":
        predict_preferences(config, trained, folder)
        return
    table = read_file(given) if is_file else Dataset.from_list([_one_row(str(config.input), trained.task)])
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise UserError(
            f"{given} lacks the columns {join_names(missing)} that the run reads; rename columns of the file"
        )
    check_reserved_columns(table, given)
    bundle = load_bundle(trained, folder)
    if trained.task.kind == "instructions":
        rows, empty, told = open_conversations(trained.task, table)
        if told:
            log(f"{told} of {len(table)} conversations end with an answer, which is left out and given anew")
    else:
        texts = {
            column: [example_reader(trained.task).parse_text(text) for text in table[column]] for column in columns
        }
        empty = [row for row in range(len(table)) if not all(texts[column][row] for column in columns)]
        rows = Dataset.from_dict({"id": range(len(table)), **texts, "label": [None] * len(table)})
    encoded = bundle.format.encode(rows)
    with predictor(with_eval_batch_size(config, trained), bundle) as trainer:
        answers, _ = answer(bundle, trainer, encoded)
    labels: list[Any] = [bundle.format.describe(prediction) for prediction in answers.predictions]
    scores: list[Any] = [row.astype(float).tolist() or None for row in answers.scores]
    for row in empty:
        labels[row] = scores[row] = None
    if encoded.truncated:
        log(f"{encoded.truncated} of {len(table)} rows were longer than {trained.task.max_length} tokens and were cut")
    return_predictions(config, answer_table(table, labels, scores), len(empty))


def return_predictions(config: RunConfig, out: Any, empty: int) -> None:
    """Write a table of answers, or print the one answer to a text; say how many rows have none."""
    given = Path(str(config.input))
    if empty:
        log(f"{empty} of {len(out)} rows have no text; they are given no prediction")
    if not is_main_process():
        return
    target = answers_file(config, given) if given.suffix in FILES or config.output else None
    if target is None:
        print(json.dumps(out[0], ensure_ascii=False))
    else:
        write_table(out, target)
        log(f"{len(out)} rows -> {target}")


def _one_row(text: str, task: TaskConfig) -> dict[str, str]:
    columns = list(task.text)
    bundle = [part.strip() for part in text.split(PAIR)] if len(columns) > 1 else [text]
    if task.kind == "instructions":
        bundle += [""] * (len(columns) - len(bundle))  # an instruction may have no input
    if len(bundle) != len(columns):
        raise UserError(
            f"the run reads {join_names(columns)}; write both, with {PAIR} between: input='first {PAIR} second'"
        )
    return dict(zip(columns, bundle, strict=True))


def predict_preferences(config: RunConfig, trained: RunConfig, folder: Path) -> None:
    """Tell the margin of each pair of a file, or write an answer to each prompt of a file, or to one text."""

    given, prompt = Path(str(config.input)), trained.task.text[0]
    table = read_file(given) if given.suffix in FILES else Dataset.from_dict({prompt: [str(config.input)]})
    if prompt not in table.column_names:
        raise UserError(f"{given} lacks the column {prompt} that the run reads; rename columns of the file")
    check_reserved_columns(table, given)
    if set(trained.task.text) <= set(table.column_names):
        columns = [list(table[column]) for column in trained.task.text]
        rows: list[Any] = [parse_preference(list(values), str(given)) for values in zip(*columns, strict=True)]
        places = [place for place, row in enumerate(rows) if all(row)]
        said: Any = _margins(config, trained, folder, [rows[place] for place in places]) if places else []
    else:
        rows = [parse_prompt(value) for value in table[prompt]]
        places = [place for place, row in enumerate(rows) if row]
        bundle = load_bundle(trained, folder)
        said = _written(config, trained, bundle, [rows[place] for place in places]) if places else []
    labels: list[Any] = [None] * len(table)
    scores: list[Any] = [None] * len(table)
    for place, (label, numbers) in zip(places, said, strict=True):
        labels[place], scores[place] = label, numbers
    return_predictions(config, answer_table(table, labels, scores), len(table) - len(places))


def _margins(config: RunConfig, trained: RunConfig, folder: Path, rows: list[Any]) -> list[tuple[float, list[float]]]:
    """Return each pair's margin, and the rewards of both answers."""

    table = Dataset.from_dict(dict(zip(trained.task.text, zip(*rows, strict=True), strict=True)))
    trained = with_eval_batch_size(config, trained)
    reference = score_reference(
        trained, base_source(trained, folder), {"rows": table}, run_tokenizer_source(trained, folder)
    )
    bundle = load_bundle(trained, folder)
    encoded = reference.beside("rows", bundle.format.encode(table))
    with predictor(trained, bundle) as trainer:
        answers, _ = answer(bundle, trainer, encoded)
    if encoded.truncated:
        log(f"{encoded.truncated} of {len(rows)} pairs were too long and were cut")
    return [(float(m), row[:2].tolist()) for m, row in zip(answers.predictions, answers.scores, strict=True)]


def _written(
    config: RunConfig, trained: RunConfig, bundle: TrainingBundle, prompts: list[Any]
) -> list[tuple[str, None]]:
    """Return what the model writes after each prompt, greedily."""

    assert isinstance(bundle.format, PreferenceFormat)
    ids, tokenizer = bundle.format.prompts(prompts), bundle.tokenizer
    with predictor(with_eval_batch_size(config, trained), bundle) as trainer:
        written, _ = training.generate(
            trainer, ids, tokenizer.pad_token_id, bundle.format.max_answer_tokens, tokenizer.eos_token_id
        )  # fmt: skip
    return [(text.strip(), None) for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
