"""Tokenized examples: of many, the tokens are stored in the cache folder by their content, for all processes."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, fields
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import pyarrow as pa
import torch
from datasets import Dataset

from peftkit.config.progress import advance
from peftkit.data.array_cache import Arrays, code_digest, read_arrays, write_arrays
from peftkit.data.columns import text_columns

MIN_EXAMPLES = 4000  # tokenizing fewer is about as fast as reading a file
ONE_BATCH = 64  # examples that take less time than what `datasets` does for any number
PACKAGES = ("tokenizers", "transformers", "datasets")
# keys of a task that do not determine the tokens
OTHER_KEYS = {
    "suite", "dataset", "subset", "revision", "label", "labels", "splits", "metrics", "max_train_samples", "id",
    "max_eval_samples", "folds", "fold", "stratify", "class_weights", "sampling", "focal_gamma", "label_order",
    "domain", "shift",
}  # fmt: skip


def tokenize_examples(
    task_format: Any, examples: Dataset, tokens: Callable[[dict[str, list]], dict[str, Any]]
) -> pa.Table:
    """Return the columns that `tokens` makes of batches of examples: lists of numbers, or a value for each example."""
    tokenizer = getattr(task_format.tokenizer, "backend_tokenizer", None)
    key = None if len(examples) < MIN_EXAMPLES or tokenizer is None else _key(task_format, examples)
    if key is not None and (stored := read_arrays("tokenized", key)) is not None:
        advance(len(examples))
        return _table(stored)
    if key is None and 0 < len(examples) <= ONE_BATCH:
        return pa.table(dict(tokens(examples[:])))
    found = examples.map(
        tokens,
        batched=True,
        keep_in_memory=True,
        remove_columns=examples.column_names,
        new_fingerprint=uuid4().hex,  # else `datasets` hashes the tokenizer, which takes longer than 1,000 texts
    ).with_format("arrow")[:]
    if key is not None:
        write_arrays("tokenized", key, _arrays(found))
    return found


def _key(task_format: Any, examples: Dataset) -> str:
    """Return the hash of texts, tokenizer, settings and code, which determine the tokens."""
    tokenizer, kind = task_format.tokenizer, type(task_format)
    task = {name: value for name, value in asdict(task_format.task).items() if name not in OTHER_KEYS}
    own = {each.name: getattr(task_format, each.name) for each in fields(task_format)}
    own = {name: value for name, value in own.items() if name not in ("task", "tokenizer", "names")}
    settings = (
        kind.__module__,
        kind.__qualname__,
        task,
        own,
        repr(tokenizer),
        [*map(version, PACKAGES)],
        code_digest("data"),
    )
    digest = hashlib.sha256(repr(settings).encode())
    tokenizer.backend_tokenizer.no_truncation()  # the state of its last call; each call sets its own
    tokenizer.backend_tokenizer.no_padding()
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    sink = pa.BufferOutputStream()
    table = examples.select_columns(text_columns(task_format.task)).with_format("arrow")[:].combine_chunks()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
        stream.write_table(table.replace_schema_metadata())
    digest.update(sink.getvalue())
    return digest.hexdigest()


def _arrays(table: pa.Table) -> Arrays:
    """Return the values of each column and, of lists, their lengths."""
    arrays: Arrays = {}
    for number, name in enumerate(table.column_names):
        column = table[name].combine_chunks()
        if pa.types.is_list(column.type):
            arrays[f"{number} {name} lengths"] = torch.tensor(column.value_lengths().to_numpy())
            column = column.flatten()
        arrays[f"{number} {name}"] = torch.tensor(column.to_numpy(zero_copy_only=False))
    return arrays


def _table(arrays: Arrays) -> pa.Table:
    columns: dict[str, Any] = {}
    for place in sorted((name for name in arrays if not name.endswith(" lengths")), key=lambda n: int(n.split()[0])):
        values: Any = pa.array(arrays[place].numpy())
        if (lengths := arrays.get(f"{place} lengths")) is not None:
            offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0, dtype=lengths.dtype)])
            values = pa.ListArray.from_arrays(pa.array(offsets.numpy()), values)
        columns[place.split(" ", 1)[1]] = values
    return pa.table(columns)
