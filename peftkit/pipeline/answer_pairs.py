"""Turn a finished run, or two, into pairs of answers to the same held-out questions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, TaskConfig, UserError
from peftkit.config.source import Source
from peftkit.data.datasets import load_task_dataset
from peftkit.generation.judging import AnswerPair
from peftkit.pipeline.inference import recorded_config
from peftkit.results import run_folder

Key = tuple[str, str]  # split and id


@dataclass(frozen=True)
class RunAnswers:
    """What a run was asked on held-out rows, what it was to write, None where that is hidden, and what it wrote."""

    folder: Path
    questions: dict[Key, str]
    references: dict[Key, str | None]
    answers: dict[Key, str]


def pair_with_references(run: RunConfig, folder: Path) -> tuple[list[AnswerPair], int]:
    """Return the run's answers against the references, and how many rows have none."""
    sheet = _sheet(run, folder)
    pairs = [
        AnswerPair(key[1], key[0], sheet.questions[key], text, str(sheet.references[key]))
        for key, text in sheet.answers.items()
        if sheet.references[key] is not None
    ]
    if not pairs:
        raise UserError(f"{folder}: the references are hidden; say runs=[A,B] to hold two runs against each other")
    return _drawn(pairs), len(sheet.answers) - len(pairs)


def pair_runs(run: RunConfig, folders: list[Path]) -> list[AnswerPair]:
    """Return the answers of two runs to the same rows.

    Raises:
        UserError: they were asked about other rows, or in other words.
    """
    one, other = (_sheet(run, folder) for folder in folders)
    shared = one.answers.keys() & other.answers.keys()
    if len(shared) < max(len(one.answers), len(other.answers)):
        raise UserError(
            f"{one.folder} answered {len(one.answers)} rows and {other.folder} {len(other.answers)}, of which "
            f"{len(shared)} are the same; name two runs that were scored on the same rows of the same task"
        )
    if one.references != other.references:
        raise UserError(
            f"{one.folder} and {other.folder} were to write different texts; name two runs of the same task and data"
        )
    if one.questions != other.questions:
        raise UserError(
            f"{one.folder} and {other.folder} were asked in different words; name two runs with the same task.text "
            "and task.template"
        )
    return _drawn([AnswerPair(k[1], k[0], one.questions[k], one.answers[k], other.answers[k]) for k in one.answers])


def _sheet(run: RunConfig, folder: Path) -> RunAnswers:
    """Read a run's predictions, and the questions from the data that it was scored on."""
    trained = recorded_config(folder)
    told: Any = run_folder.read_result(folder)
    task = replace(trained.task, splits={**trained.task.splits, "train": None})
    then = told["audit"]["sources"]["data"]
    if then["kind"] == "hub":  # as it was, whatever the Hub has now
        task = replace(task, revision=then["revision"])
    rows = load_task_dataset(task, run.data_root, run.source, then["revision"])
    questions: dict[Key, str] = {}
    labels: dict[Key, str | None] = {}
    for split, table in rows.splits.items():
        for key, row in zip(_keys([split] * len(table), table["id"]), table, strict=True):
            questions[key], labels[key] = _question(task, row), row["label"]
    said = _predictions(folder / "predictions.parquet")
    references = {key: None if label is None else str(label[0]) for key, (label, _) in said.items()}
    is_other = said.keys() - questions.keys() or any(labels[key] != text for key, text in references.items())
    if is_other or _has_changed(then, rows.source):
        raise UserError(
            f"{folder} was scored on other rows than {rows.source.name} holds now (then {then['name']}, revision "
            f"{then['revision']}); say source= and data_root= as the run did, or bring that data back"
        )
    return RunAnswers(
        folder, {key: questions[key] for key in said}, references, {k: text for k, (_, text) in said.items()}
    )


def _has_changed(then: Mapping[str, Any], now: Source) -> bool:
    """Tell whether data that is named in the same way, by a commit or over its bytes, is another now."""
    revisions = (then["revision"], now.revision)
    return then["kind"] == now.kind and None not in revisions and revisions[0] != revisions[1]


def _question(task: TaskConfig, row: Mapping[str, Any]) -> str:
    """Return what a row asks: its texts as the model was shown them, or the turns of a conversation."""
    if "messages" in row:
        turns = row["messages"]
        is_alone = len(turns) == 1
        return "\n\n".join(turn["content"] if is_alone else f"{turn['role']}: {turn['content']}" for turn in turns)
    texts = {name: row[name] for name in task.text}
    return "\n".join(texts.values()) if task.template is None else task.template.format(**texts)


def _predictions(file: Path) -> Mapping[Key, tuple[list[str] | None, str]]:
    """Return the references and the prediction of each row."""
    import pyarrow.parquet as pq

    table = pq.read_table(file, columns=["id", "split", "label", "prediction"]).to_pydict()
    said = zip(table["label"], (text or "" for text in table["prediction"]), strict=True)
    return dict(zip(_keys(table["split"], table["id"]), said, strict=True))


def _keys(splits: Sequence[str], ids: Sequence[Any]) -> list[Key]:
    """Name rows by split and id; one whose id was there before, by its number too."""
    seen: Counter[Key] = Counter()
    keys = []
    for key in ((split, str(name)) for split, name in zip(splits, ids, strict=True)):
        seen[key] += 1
        keys.append(key if seen[key] == 1 else (key[0], f"{key[1]} ({seen[key]})"))
    return keys


def _drawn(pairs: list[AnswerPair]) -> list[AnswerPair]:
    """Return the pairs in an order that hangs on their ids alone: the first n are a sample, the same for all runs."""
    return sorted(pairs, key=lambda pair: hashlib.sha256(f"{pair.split}/{pair.id}".encode()).digest())
