"""Prediction with a finished run: for a file, for one text, or for texts from Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
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

SEPARATOR = "||"  # between two texts of one input


def predict(config: RunConfig) -> None:
    """Predict for the rows of a file, or for one text, and write or print them with prediction and scores.

    With several runs the column `task` names the run of each row.
    """
    if config.runs:
        predict_mixed(config)
        return
    given = Path(str(config.input))
    is_file = given.suffix in FILES
    if is_file and not given.is_file():
        raise UserError(f"input={given}: no such file; name a file, or write the text itself: input='a fine film'")
    trained = recorded_config(Path(str(config.run)))
    table = read_file(given) if is_file else text_table(trained.task, [str(config.input)])
    table, empty = predict_table(config, table, str(given))
    if empty:
        log(f"{empty} of {len(table)} rows have no text and get no prediction")
    if not is_main_process():
        return
    if not is_file and not config.output:
        print(json.dumps(table[0], ensure_ascii=False))
        return
    target = answers_file(config, given)
    write_table(table, target)
    log(f"{len(table)} rows -> {target}")


def predict_table(config: RunConfig, table: Dataset, name: str) -> tuple[Dataset, int]:
    """Return the table with the columns prediction and scores, and how many rows have no text and so no prediction.

    Args:
        name: of the table, for messages.

    Raises:
        UserError: columns are missing, or have the names of the new ones.
    """
    folder = Path(str(config.run))
    trained = recorded_config(folder)
    needed = trained.task.text[:1] if trained.task.kind == "preferences" else trained.task.text
    if missing := [column for column in needed if column not in table.column_names]:
        raise UserError(f"{name} lacks the columns {join_names(missing)} that the run reads; rename its columns")
    check_reserved_columns(table, Path(name))
    if trained.task.kind == "preferences":
        return _predict_preferences(config, trained, table, name)
    bundle = load_bundle(trained, folder)
    columns = list(trained.task.text)
    if trained.task.kind == "instructions":
        examples, empty, answered = open_conversations(trained.task, table)
        if answered:
            log(f"{answered} of {len(table)} conversations end with an answer, which is dropped and generated again")
    else:
        texts = {
            column: [example_reader(trained.task).parse_text(text) for text in table[column]] for column in columns
        }
        empty = [row for row in range(len(table)) if not all(texts[column][row] for column in columns)]
        examples = Dataset.from_dict({"id": range(len(table)), **texts, "label": [None] * len(table)})
    encoded = bundle.format.encode(examples)
    with predictor(with_eval_batch_size(config, trained), bundle) as trainer:
        answers, _ = answer(bundle, trainer, encoded)
    labels: list[Any] = [bundle.format.describe(prediction) for prediction in answers.predictions]
    scores: list[Any] = [row.astype(float).tolist() or None for row in answers.scores]
    for row in empty:
        labels[row] = scores[row] = None
    if encoded.truncated:
        log(f"{encoded.truncated} of {len(table)} rows were longer than {trained.task.max_length} tokens and were cut")
    return answer_table(table, labels, scores), len(empty)


def text_table(task: TaskConfig, texts: Sequence[str | Sequence[str]], split: bool = True) -> Dataset:
    """Return texts as a table of the task's columns; a pair is a sequence, or, with `split`, a text with || between.

    Raises:
        UserError: a text has too few or too many parts.
    """
    columns = list(task.text) if task.kind != "preferences" else list(task.text[:1])
    rows = []
    for text in texts:
        if not isinstance(text, str):
            parts = list(text)
        else:
            parts = [part.strip() for part in text.split(SEPARATOR)] if split and len(columns) > 1 else [text]
        if task.kind == "instructions":
            parts += [""] * (len(columns) - len(parts))  # an instruction may have no input
        if len(parts) != len(columns):
            raise UserError(
                f"the run reads {join_names(columns)}; write both, with {SEPARATOR} between: "
                f"input='first {SEPARATOR} second'"
            )
        rows.append(dict(zip(columns, parts, strict=True)))
    return Dataset.from_list(rows)


def _predict_preferences(config: RunConfig, trained: RunConfig, table: Dataset, name: str) -> tuple[Dataset, int]:
    """Predict the reward margin of each pair of answers, or generate an answer where there are prompts alone."""
    folder, values = Path(str(config.run)), trained.task.text
    if set(values) <= set(table.column_names):
        columns = [list(table[column]) for column in values]
        rows: list[Any] = [parse_preference(list(row), name) for row in zip(*columns, strict=True)]
        places = [place for place, row in enumerate(rows) if all(row)]
        found: Any = _margins(config, trained, folder, [rows[place] for place in places]) if places else []
    else:
        rows = [parse_prompt(value) for value in table[values[0]]]
        places = [place for place, row in enumerate(rows) if row]
        found = _answers(config, trained, folder, [rows[place] for place in places]) if places else []
    labels: list[Any] = [None] * len(table)
    scores: list[Any] = [None] * len(table)
    for place, (label, numbers) in zip(places, found, strict=True):
        labels[place], scores[place] = label, numbers
    return answer_table(table, labels, scores), len(table) - len(places)


def _margins(config: RunConfig, trained: RunConfig, folder: Path, rows: list[Any]) -> list[tuple[float, list[float]]]:
    """Return the margin of each pair, and the rewards of both answers."""
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


def _answers(config: RunConfig, trained: RunConfig, folder: Path, prompts: list[Any]) -> list[tuple[str, None]]:
    """Return the text that the model generates after each prompt, by greedy decoding."""
    bundle = load_bundle(trained, folder)
    assert isinstance(bundle.format, PreferenceFormat)
    ids, tokenizer = bundle.format.prompts(prompts), bundle.tokenizer
    with predictor(with_eval_batch_size(config, trained), bundle) as trainer:
        generated, _ = training.generate(
            trainer, ids, tokenizer.pad_token_id, bundle.format.max_answer_tokens, tokenizer.eos_token_id
        )
    return [(text.strip(), None) for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]
