"""Predict with a finished run: label a file or one text."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from datasets import Dataset, List

from peftkit import training
from peftkit.config import FILES, RunConfig, TaskConfig, UserError
from peftkit.data.conversations import open_conversations
from peftkit.data.datasets import parse_text
from peftkit.data.files import read_file
from peftkit.data.formats import PreferenceFormat
from peftkit.data.preference_pairs import parse_preference, parse_prompt
from peftkit.pipeline.build import TrainingBundle, predictor
from peftkit.pipeline.evaluate import answer
from peftkit.pipeline.inference import (
    _list,
    base_source,
    in_batches_of,
    load_bundle,
    run_tokenizer_source,
    trained_run,
)
from peftkit.pipeline.reference import score_reference
from peftkit.results.console import is_main_process, log

PAIR = "||"  # between two texts of one input


def predict(run: RunConfig) -> None:
    """Label the rows of a file, or one text, and print or write text, prediction and scores."""
    from datasets import Dataset

    folder = Path(str(run.run))
    trained = trained_run(folder)
    columns = list(trained.task.text)
    given = Path(str(run.input))
    is_file = given.suffix in FILES
    if is_file and not given.is_file():
        raise UserError(f"there is no file {given}; name one, or write the text itself: input='a fine film'")
    if trained.task.kind == "preferences":
        predict_preferences(run, trained, folder)
        return
    table = read_file(given) if is_file else Dataset.from_list([_one_row(str(run.input), trained.task)])
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise UserError(f"{given} lacks the columns {_list(missing)} that the run reads; rename columns of the file")
    check_reserved_columns(table, given)
    parts = load_bundle(trained, folder)
    if trained.task.kind == "instructions":
        rows, empty, told = open_conversations(trained.task, table)
        if told:
            log(f"{told} of {len(table)} conversations end with an answer, which is left out and given anew")
    else:
        texts = {column: [parse_text(trained.task, text) for text in table[column]] for column in columns}
        empty = [row for row in range(len(table)) if not all(texts[column][row] for column in columns)]
        rows = Dataset.from_dict({"id": range(len(table)), **texts, "label": [None] * len(table)})
    encoded = parts.format.encode(rows)
    with predictor(in_batches_of(run, trained), parts) as trainer:
        answers, _ = answer(parts, trainer, encoded)
    labels: list[Any] = [parts.format.describe(prediction) for prediction in answers.predictions]
    scores: list[Any] = [row.astype(float).tolist() or None for row in answers.scores]
    for row in empty:
        labels[row] = scores[row] = None
    if encoded.truncated:
        log(f"{encoded.truncated} of {len(table)} rows were longer than {trained.task.max_length} tokens and were cut")
    return_predictions(run, answer_table(table, labels, scores), len(empty))


def return_predictions(run: RunConfig, out: Any, empty: int) -> None:
    """Write a table of answers, or print the one answer to a text; say how many rows have none."""
    given = Path(str(run.input))
    if empty:
        log(f"{empty} of {len(out)} rows have no text; they are given no prediction")
    if not is_main_process():
        return
    target = answers_file(run, given) if given.suffix in FILES or run.output else None
    if target is None:
        print(json.dumps(out[0], ensure_ascii=False))
    else:
        write_table(out, target)
        log(f"{len(out)} rows -> {target}")


def check_reserved_columns(table: Any, given: Path) -> None:
    """Refuse a table that has a column where the answers go."""
    if taken := [column for column in ("prediction", "scores") if column in table.column_names]:
        raise UserError(f"{given} has {_list(taken)} already, where the answers go; rename it")


def _one_row(text: str, task: TaskConfig) -> dict[str, str]:
    columns = list(task.text)
    parts = [part.strip() for part in text.split(PAIR)] if len(columns) > 1 else [text]
    if task.kind == "instructions":
        parts += [""] * (len(columns) - len(parts))  # an instruction may have no input
    if len(parts) != len(columns):
        raise UserError(f"the run reads {_list(columns)}; write both, with {PAIR} between: input='first {PAIR} second'")
    return dict(zip(columns, parts, strict=True))


def answer_table(table: Any, labels: list[Any], scores: list[Any]) -> Any:
    """Return the table with a prediction and its scores in each row."""
    return table.add_column("prediction", labels).add_column("scores", scores)


def answers_file(run: RunConfig, given: Path) -> Path:
    """Return where the answers to a file go: output=, or beside it, as jsonl where its own kind holds no answers."""
    suffix = given.suffix if given.suffix in (".csv", ".tsv", ".jsonl", ".parquet") else ".jsonl"
    return Path(run.output or f"{given.with_suffix('')}.predictions{suffix}")


def _cell(values: Any) -> str | None:
    """Return a list as the text of one cell: words apart by spaces, as they are read, anything else as JSON."""
    is_words = values is not None and all(isinstance(value, str) for value in values)
    return None if values is None else " ".join(values) if is_words else json.dumps(values)


def write_table(table: Any, file: Path) -> None:
    """Write a table as its file's ending says."""
    if file.suffix == ".jsonl":
        table.to_json(str(file), force_ascii=False)
    elif file.suffix == ".parquet":
        table.to_parquet(str(file))
    elif file.suffix in (".csv", ".tsv"):
        lists = [name for name in table.column_names if isinstance(table.features[name], List)]
        table = table.map(lambda row: {name: _cell(row[name]) for name in lists})
        is_tsv = file.suffix == ".tsv"  # read_file takes no quotes off a tsv
        table.to_csv(str(file), **({"sep": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if is_tsv else {}))
    else:
        raise UserError(f"output={file} is none of csv, tsv, jsonl and parquet")


def predict_preferences(run: RunConfig, trained: RunConfig, folder: Path) -> None:
    """Tell the margin of each pair of a file, or write an answer to each prompt of a file, or to one text."""

    given, prompt = Path(str(run.input)), trained.task.text[0]
    table = read_file(given) if given.suffix in FILES else Dataset.from_dict({prompt: [str(run.input)]})
    if prompt not in table.column_names:
        raise UserError(f"{given} lacks the column {prompt} that the run reads; rename columns of the file")
    check_reserved_columns(table, given)
    if set(trained.task.text) <= set(table.column_names):
        columns = [list(table[column]) for column in trained.task.text]
        rows: list[Any] = [parse_preference(list(values), str(given)) for values in zip(*columns, strict=True)]
        places = [place for place, row in enumerate(rows) if all(row)]
        said: Any = _margins(run, trained, folder, [rows[place] for place in places]) if places else []
    else:
        rows = [parse_prompt(value) for value in table[prompt]]
        places = [place for place, row in enumerate(rows) if row]
        parts = load_bundle(trained, folder)
        said = _written(run, trained, parts, [rows[place] for place in places]) if places else []
    labels: list[Any] = [None] * len(table)
    scores: list[Any] = [None] * len(table)
    for place, (label, numbers) in zip(places, said, strict=True):
        labels[place], scores[place] = label, numbers
    return_predictions(run, answer_table(table, labels, scores), len(table) - len(places))


def _margins(run: RunConfig, trained: RunConfig, folder: Path, rows: list[Any]) -> list[tuple[float, list[float]]]:
    """Return each pair's margin, and the rewards of both answers."""

    table = Dataset.from_dict(dict(zip(trained.task.text, zip(*rows, strict=True), strict=True)))
    trained = in_batches_of(run, trained)
    reference = score_reference(
        trained, base_source(trained, folder), {"rows": table}, run_tokenizer_source(trained, folder)
    )
    parts = load_bundle(trained, folder)
    encoded = reference.beside("rows", parts.format.encode(table))
    with predictor(trained, parts) as trainer:
        answers, _ = answer(parts, trainer, encoded)
    if encoded.truncated:
        log(f"{encoded.truncated} of {len(rows)} pairs were too long and were cut")
    return [(float(m), row[:2].tolist()) for m, row in zip(answers.predictions, answers.scores, strict=True)]


def _written(run: RunConfig, trained: RunConfig, parts: TrainingBundle, prompts: list[Any]) -> list[tuple[str, None]]:
    """Return what the model writes after each prompt, greedily."""

    assert isinstance(parts.format, PreferenceFormat)
    ids, tokenizer = parts.format.prompts(prompts), parts.tokenizer
    with predictor(in_batches_of(run, trained), parts) as trainer:
        written, _ = training.generate(
            trainer, ids, tokenizer.pad_token_id, parts.format.max_answer_tokens, tokenizer.eos_token_id
        )  # fmt: skip
    return [(text.strip(), None) for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
