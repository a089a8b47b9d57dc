"""Pairs of answers to the same held-out questions, from the predictions of one run or two."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, TaskConfig, UserError, refuse
from peftkit.data.columns import text_columns
from peftkit.data.datasets import load_task_dataset
from peftkit.data.formats.base import fill_template
from peftkit.data.formats.text_generation import first_reference
from peftkit.generation.judging import AnswerPair
from peftkit.results.run_result import RunResult

Key = tuple[str, str]  # split and id


@dataclass(frozen=True)
class RunAnswers:
    """The held-out questions of a run, their references (None where hidden), and its answers."""

    questions: dict[Key, str]
    references: dict[Key, str | None]
    answers: dict[Key, str]


def pair_with_references(config: RunConfig, folder: Path) -> tuple[list[AnswerPair], int]:
    """Return pairs of the run's answers and the references, and the number of examples without a reference."""
    run = _read_answers(config, folder)
    pairs = _pairs(run, run.references)
    if not pairs:
        raise UserError(f"{folder}: the references are hidden; set runs=[A,B] to compare two runs")
    return pairs, len(run.answers) - len(pairs)


def pair_runs(config: RunConfig, folders: list[Path]) -> list[AnswerPair]:
    """Return pairs of the answers of two runs to the same examples.

    Raises:
        UserError: their examples, references or prompts differ.
    """
    one, other = (_read_answers(config, folder) for folder in folders)
    sizes, shared = (len(one.answers), len(other.answers)), len(one.answers.keys() & other.answers.keys())
    examples = f"scored on {sizes[0]} and {sizes[1]} examples, of which {shared} are the same"
    names, these = f"{folders[0]} and {folders[1]}", "set runs= to two runs"
    refuse(
        (shared < max(sizes), f"{names}: {examples}; {these} that were scored on the same examples of the same task"),
        (one.references != other.references, f"{names}: different references; {these} of the same task and data"),
        (
            one.questions != other.questions,
            f"{names}: different prompts; {these} with the same task.text and task.template",
        ),
    )
    return _pairs(one, other.answers)


def _pairs(run: RunAnswers, others: Mapping[Key, str | None]) -> list[AnswerPair]:
    """Return pairs of a run's answers and other texts where there are any.

    Their order depends only on their ids, so that the first n are the same sample for all runs.
    """
    pairs = [
        AnswerPair(key[1], key[0], run.questions[key], answer, other)
        for key, answer in run.answers.items()
        if (other := others[key]) is not None
    ]
    return sorted(pairs, key=lambda pair: hashlib.sha256(f"{pair.split}/{pair.id}".encode()).digest())


def _read_answers(config: RunConfig, folder: Path) -> RunAnswers:
    """Read a run's predictions, and the questions from the data that it was scored on."""
    import pyarrow.parquet as pq

    run = RunResult.finished(folder)
    task = replace(run.config.task, splits={**run.config.task.splits, "train": None})
    recorded = run.record["audit"]["sources"]["data"]
    if recorded["kind"] == "hub":  # the commit of the run, not the latest one
        task = replace(task, revision=recorded["revision"])
    data = load_task_dataset(task, config.data_root, config.source, recorded["revision"])
    questions: dict[Key, str] = {}
    labels: dict[Key, str | None] = {}
    for split, table in data.splits.items():
        for key, row in zip(_keys([split] * len(table), table["id"]), table, strict=True):
            questions[key], labels[key] = _question(task, row), first_reference(row["label"])
    scored = pq.read_table(folder / "predictions.parquet", columns=["id", "split", "label", "prediction"]).to_pydict()
    keys = _keys(scored["split"], scored["id"])
    texts = (None if label is None else str(label[0]) for label in scored["label"])
    references = dict(zip(keys, texts, strict=True))
    # Hub commits or hashes of files, which are comparable only for sources of the same kind
    revisions = {recorded["revision"], data.source.revision}
    has_changed = recorded["kind"] == data.source.kind and None not in revisions and len(revisions) > 1
    is_other = references.keys() - questions.keys() or any(labels[key] != text for key, text in references.items())
    if is_other or has_changed:
        raise UserError(
            f"{folder}: scored on other examples than {data.source.name} has now (then {recorded['name']}, revision "
            f"{recorded['revision']}); set source= and data_root= as for the run, or restore that data"
        )
    answers = {key: text or "" for key, text in zip(keys, scored["prediction"], strict=True)}
    return RunAnswers({key: questions[key] for key in keys}, references, answers)


def _question(task: TaskConfig, row: Mapping[str, Any]) -> str:
    """Return the question of an example: its texts as in the prompt, or the turns of a conversation."""
    if "messages" in row:
        turns = row["messages"]
        return "\n\n".join(
            turn["content"] if len(turns) == 1 else f"{turn['role']}: {turn['content']}" for turn in turns
        )
    texts = dict(zip(task.text, (row[column] for column in text_columns(task)), strict=True))
    return "\n".join(texts.values()) if task.template is None else fill_template(task.template, texts)


def _keys(splits: Sequence[str], ids: Sequence[Any]) -> list[Key]:
    """Return split and id of each example; repeated ids are numbered."""
    seen: Counter[Key] = Counter()
    keys = []
    for key in zip(splits, map(str, ids), strict=True):
        seen[key] += 1
        keys.append(key if seen[key] == 1 else (key[0], f"{key[1]} ({seen[key]})"))
    return keys
