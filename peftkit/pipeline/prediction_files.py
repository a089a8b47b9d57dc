"""Files of predictions: the table of the input with a prediction and scores in each row."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import List

from peftkit.config import RunConfig, UserError
from peftkit.pipeline.inference import join_names


def answer_table(table: Any, answers: Mapping[int, tuple[Any, Any]]) -> Any:
    """Return the table with the prediction and the scores of each row, both None where a row has no answer."""
    predictions, scores = zip(*(answers.get(row, (None, None)) for row in range(len(table))), strict=True)
    return table.add_column("prediction", list(predictions)).add_column("scores", list(scores))


def answers_file(config: RunConfig, given: Path) -> Path:
    """Return where the answers to a file go: output=, or beside it, as jsonl where its own kind holds no answers."""
    suffix = given.suffix if given.suffix in (".csv", ".tsv", ".jsonl", ".parquet") else ".jsonl"
    return Path(config.output or f"{given.with_suffix('')}.predictions{suffix}")


def _cell(values: Any) -> str | None:
    """Return a list as the text of one cell: words apart by spaces, as they are read, anything else as JSON."""
    is_words = values is not None and all(isinstance(value, str) for value in values)
    return None if values is None else " ".join(values) if is_words else json.dumps(values)


def write_table(table: Any, file: Path) -> None:
    """Write a table in the format of the file's ending."""
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


def check_reserved_columns(table: Any, given: Path) -> None:
    """Refuse a table that has a column where the answers go."""
    if taken := [column for column in ("prediction", "scores") if column in table.column_names]:
        raise UserError(f"{given} has {join_names(taken)} already, where the answers go; rename it")
