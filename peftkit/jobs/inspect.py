"""job=inspect: columns, labels, duplicates, lengths, tokens and scripts of a task's data, before anything trains."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.config import RunConfig, TaskConfig, UserError, kind_of, label_columns
from peftkit.config.checks.columns import missing_columns
from peftkit.config.console import log
from peftkit.config.files import stem_of
from peftkit.config.progress import stage
from peftkit.config.quoting import SHELL, typed
from peftkit.data.columns import text_columns
from peftkit.data.datasets import TaskDataset, load_task_dataset
from peftkit.data.formats import format_of
from peftkit.data.tables import read_tables
from peftkit.data.unknown_tokens import count_unknown_tokens
from peftkit.generation.contamination import iter_texts
from peftkit.paths import safe_name
from peftkit.pipeline.artifacts import find_model
from peftkit.pipeline.build import text_length
from peftkit.pipeline.inspection.columns import Guess, columns_section, guess_columns, read_columns
from peftkit.pipeline.inspection.duplicates import Example, duplicate_sections
from peftkit.pipeline.inspection.labels import label_section, number_section
from peftkit.pipeline.inspection.page import render_page
from peftkit.pipeline.inspection.sections import Inspection, Section
from peftkit.pipeline.inspection.terminal import show
from peftkit.pipeline.inspection.tokens import count_words, length_section, script_section, unknown_section
from peftkit.pipeline.sources import run_tokenizer, warn_substitutions
from peftkit.results.page import write_page

OWN_RECIPE, OWN_TASK = "own_data", "task=classification"  # for the user's own labeled texts; the recipe's task
WEIGHTS = "task.class_weights=balanced"
DEFAULT_LABEL = "label"  # of conf/task/classification.yaml: a column of another name may be the label
NO_LIMIT = 10**9  # tokens


def inspect(config: RunConfig) -> None:
    """Print what is found in the data of a task, write it as a page, and log the command to type next.

    Raises:
        UserError: a training run would refuse the data; what was found until then is shown.
    """
    found = inspect_data(config)
    show(found)
    page = Path(config.output or Path(config.out, "inspect", safe_name(found.name), "inspect.html"))
    write_page(render_page(found), page)
    log(f"-> {page}")
    if found.refusal is not None:
        raise UserError(found.refusal)
    log(f"next: {found.next_command}")


def inspect_data(config: RunConfig) -> Inspection:
    """Return what is found in the data of a task; columns of texts and labels that are not set are guessed."""
    task, sections, guess = config.task, [], None
    if task.kind != "language_modeling":  # files of plain text have no columns
        tables, _ = read_tables(task, config.data_root, config.source)
        table = tables.get(task.splits["train"] or "train") or next(iter(tables.values()))
        columns = read_columns(table)
        if not task.text:
            guess = guess_columns(columns, _known_label(task, table), task.dataset)
            task = replace(task, text=guess.text, label=task.label if isinstance(task.label, list) else guess.label)
        sections = [columns_section(columns, table, task.text, label_columns(task), guess, task.id)]
    chosen, refusal = replace(config, task=task), None
    try:
        sections += _data_sections(chosen, load_task_dataset(task, config.data_root, config.source))
    except UserError as error:
        refusal = error.message
    command = f"python -m peftkit {_joined(config.overrides)}"
    is_own = task.suite == "own" and config.data_root is None
    name = (stem_of(Path(task.dataset)) or task.name) if is_own else task.name
    return Inspection(name, command, sections, _next_command(chosen, guess), refusal)


def _known_label(task: TaskConfig, table: Dataset) -> str | None:
    """Return the label's column, the first of several, None where the data lacks the default one.

    Raises:
        UserError: the data lacks another one.
    """
    labels = label_columns(task)
    if {*labels} <= {*table.column_names}:
        return labels[0] if labels else None
    if labels != [DEFAULT_LABEL] and (message := missing_columns(task, table.column_names, labels, task.dataset)):
        raise UserError(message)
    return None


def _data_sections(config: RunConfig, data: TaskDataset) -> list[Section]:
    """Return the sections of the examples that a training run would read."""
    task, kind, train = config.task, kind_of(config.task), str(config.task.splits["train"])
    split = ", a part of train that peftkit holds out" if data.is_split else ""
    rows = [
        (f"{name}{split if name != train else ''}", len(examples), data.dropped.get(name, 0))
        for name, examples in data.splits.items()
    ]
    replaced = [sentence] if (sentence := data.source.substitution("DATA")) else []
    sections = [Section("Splits", replaced, [], ("split", "examples", "dropped"), rows)]
    labels = {name: _labels(data, name) for name in data.splits}
    if kind.has_label_names:
        sections.append(label_section(labels, train, WEIGHTS if "class_weights" in kind.keys else ""))
    elif kind.sequence_label:
        sections.append(number_section(labels))
    texts = {name: _texts(task, examples) for name, examples in data.splits.items()}
    is_compared = kind.sequence_label  # the same text may have several answers
    examples = [
        Example(name, text, label if is_compared else None)
        for name in texts
        for text, label in zip(texts[name], labels[name], strict=True)
    ]
    with stage("looking for duplicates"):
        sections += duplicate_sections(examples, train)
    return sections + _token_sections(config, data, texts[train])


def _token_sections(config: RunConfig, data: TaskDataset, texts: Sequence[str]) -> list[Section]:
    """Return the sections of the training texts as the tokenizer of the run reads them."""
    source, kind, table = (
        find_model(config.model, config.source),
        kind_of(config.task),
        data.splits[str(config.task.splits["train"])],
    )
    warn_substitutions(source, data.source)
    tokenizer = run_tokenizer(config, source, source)
    task_format = format_of(config.task, config.model.family, data.label_names, tokenizer)
    positions = text_length(task_format)
    limit = min(config.task.max_length, positions)
    is_whole = kind.sequence_label or kind.name == "token_classification"
    if is_whole:
        tokenizer.model_max_length = NO_LIMIT
        task_format = replace(task_format, task=replace(config.task, max_length=NO_LIMIT))
    with stage("tokenizing", len(table)):
        encoded = task_format.encode(table) if is_whole else task_format.encode_training(table, config.seed)
    words, lengths = count_words(texts), np.asarray(encoded.lengths)
    return [
        length_section(lengths, limit, positions, None if is_whole else encoded.truncated),
        unknown_section(count_unknown_tokens(task_format, encoded), words, tokenizer),
        script_section(texts, words, tokenizer, source.name),
    ]


def _labels(data: TaskDataset, split: str) -> list[Any]:
    """Return the labels of a split: names of classes or lists of them, numbers or texts; None where they are hidden."""
    examples, names = data.splits[split], data.label_names
    labels = examples["label"][:] if "label" in examples.column_names else [None] * len(examples)
    if names is None:
        return labels
    return [
        [names[each] for each in label] if isinstance(label, list) else label if label is None else names[label]
        for label in labels
    ]


def _texts(task: TaskConfig, examples: Dataset) -> list[str]:
    """Return the texts of each example as one."""
    known = [name for name in text_columns(task) if name in examples.column_names]
    names = known or [name for name in examples.column_names if name not in ("id", "label", "group")]
    columns = [examples[name][:] for name in names]
    return ["\n".join(text for cell in cells for text in iter_texts(cell)) for cells in zip(*columns, strict=True)]


def _next_command(config: RunConfig, guess: Guess | None) -> str:
    """Return the command that trains on the data, with the columns that were guessed."""
    kept = [each for each in config.overrides if each.partition("=")[0] not in ("job", "output")]
    if config.recipe is None and config.task.suite == "own" and kind_of(config.task).sequence_label:
        kept = [f"recipe={OWN_RECIPE}", *(each for each in kept if each != OWN_TASK)]
    if guess is not None:
        kept = [each for each in kept if not each.startswith("task.label=")]
        return f"python -m peftkit {_joined(kept)} {typed('task.text', guess.text)} {typed('task.label', guess.label)}"
    return f"python -m peftkit {_joined(kept)}"


def _joined(overrides: Sequence[str]) -> str:
    return " ".join(each if not SHELL.sub("", each) else shlex.quote(each) for each in overrides)
