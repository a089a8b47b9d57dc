"""Pairs of answers to the same held-out questions, from the predictions of one run or two."""

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
from peftkit.results.run_result import RunResult

Key = tuple[str, str]  # split and id


@dataclass(frozen=True)
class RunAnswers:
    """The held-out questions of a run, their references (None where hidden), and its answers."""

    folder: Path
    questions: dict[Key, str]
    references: dict[Key, str | None]
    answers: dict[Key, str]


def pair_with_references(config: RunConfig, folder: Path) -> tuple[list[AnswerPair], int]:
    """Return pairs of the run's answers and the references, and the number of examples without a reference."""
    run = _read_answers(config, folder)
    pairs = [
        AnswerPair(key[1], key[0], run.questions[key], answer, str(run.references[key]))
        for key, answer in run.answers.items()
        if run.references[key] is not None
    ]
    if not pairs:
        raise UserError(f"{folder}: the references are hidden; set runs=[A,B] to compare two runs")
    return _shuffled(pairs), len(run.answers) - len(pairs)


def pair_runs(config: RunConfig, folders: list[Path]) -> list[AnswerPair]:
    """Return pairs of the answers of two runs to the same examples.

    Raises:
        UserError: they have other examples, references or prompts.
    """
    one, other = (_read_answers(config, folder) for folder in folders)
    names = f"{one.folder} and {other.folder}"
    shared = one.answers.keys() & other.answers.keys()
    if len(shared) < max(len(one.answers), len(other.answers)):
        raise UserError(
            f"{names}: scored on {len(one.answers)} and {len(other.answers)} examples, of which {len(shared)} are the "
            "same; set runs= to two runs that were scored on the same examples of the same task"
        )
    if one.references != other.references:
        raise UserError(f"{names}: different references; set runs= to two runs of the same task and data")
    if one.questions != other.questions:
        raise UserError(f"{names}: different prompts; set runs= to two runs with the same task.text and task.template")
    return _shuffled([AnswerPair(k[1], k[0], one.questions[k], one.answers[k], other.answers[k]) for k in one.answers])


def _read_answers(config: RunConfig, folder: Path) -> RunAnswers:
    """Read a run's predictions, and the questions from the data that it was scored on."""
    run = RunResult.finished(folder)
    task = replace(run.config.task, splits={**run.config.task.splits, "train": None})
    recorded = run.record["audit"]["sources"]["data"]
    if recorded["kind"] == "hub":  # the same commit, whatever the Hub has now
        task = replace(task, revision=recorded["revision"])
    data = load_task_dataset(task, config.data_root, config.source, recorded["revision"])
    questions: dict[Key, str] = {}
    labels: dict[Key, str | None] = {}
    for split, table in data.splits.items():
        for key, row in zip(_keys([split] * len(table), table["id"]), table, strict=True):
            questions[key], labels[key] = _question(task, row), row["label"]
    references, answers = _read_predictions(folder / "predictions.parquet")
    is_other = answers.keys() - questions.keys() or any(labels[key] != text for key, text in references.items())
    if is_other or _has_changed(recorded, data.source):
        raise UserError(
            f"{folder}: scored on other examples than {data.source.name} has now (then {recorded['name']}, revision "
            f"{recorded['revision']}); set source= and data_root= as for the run, or restore that data"
        )
    return RunAnswers(folder, {key: questions[key] for key in answers}, references, answers)


def _has_changed(recorded: Mapping[str, Any], now: Source) -> bool:
    """Return whether data of the same kind, Hub commits or hashes of files, has another revision now."""
    revisions = (recorded["revision"], now.revision)
    return recorded["kind"] == now.kind and None not in revisions and revisions[0] != revisions[1]


def _question(task: TaskConfig, row: Mapping[str, Any]) -> str:
    """Return the question of an example: its texts as in the prompt, or the turns of a conversation."""
    if "messages" in row:
        turns = row["messages"]
        is_single = len(turns) == 1
        return "\n\n".join(turn["content"] if is_single else f"{turn['role']}: {turn['content']}" for turn in turns)
    texts = {name: row[name] for name in task.text}
    return "\n".join(texts.values()) if task.template is None else task.template.format(**texts)


def _read_predictions(file: Path) -> tuple[dict[Key, str | None], dict[Key, str]]:
    """Return the references and the predictions."""
    import pyarrow.parquet as pq

    table = pq.read_table(file, columns=["id", "split", "label", "prediction"]).to_pydict()
    keys = _keys(table["split"], table["id"])
    references = (None if label is None else str(label[0]) for label in table["label"])
    predictions = (text or "" for text in table["prediction"])
    return dict(zip(keys, references, strict=True)), dict(zip(keys, predictions, strict=True))


def _keys(splits: Sequence[str], ids: Sequence[Any]) -> list[Key]:
    """Return split and id of each example; repeated ids are numbered."""
    seen: Counter[Key] = Counter()
    keys = []
    for key in zip(splits, map(str, ids), strict=True):
        seen[key] += 1
        keys.append(key if seen[key] == 1 else (key[0], f"{key[1]} ({seen[key]})"))
    return keys


def _shuffled(pairs: list[AnswerPair]) -> list[AnswerPair]:
    """Return the pairs in an order that depends on their ids alone: the first n are the same sample for all runs."""
    return sorted(pairs, key=lambda pair: hashlib.sha256(f"{pair.split}/{pair.id}".encode()).digest())
