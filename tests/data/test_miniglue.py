"""miniglue has the columns of GLUE, is deterministic, and cannot be memorized."""

from __future__ import annotations

from collections import Counter

import pytest
from helpers.commands import compose_config

from peftkit.data.miniglue import TASKS, miniglue, sentences
from peftkit.data.miniglue.lexicon import PEOPLE, THINGS

GLUE = sorted(set(TASKS) - {"ax"})


@pytest.mark.parametrize("task", sorted(TASKS))
def test_columns_and_labels_are_those_of_the_task_part(task: str) -> None:
    part = compose_config([f"task={task}"]).task
    splits = miniglue(task)
    for name in [*part.splits.validation, *([part.splits.train] if part.splits.train else [])]:
        for row in splits[name]:
            assert {*part.text, part.label} <= set(row)
            assert 0 <= row["label"] <= 5 if part.labels is None else row["label"] in range(len(part.labels))


@pytest.mark.parametrize("task", GLUE)
def test_no_example_occurs_twice_or_in_two_splits(task: str) -> None:
    examples = [
        tuple(v for k, v in row.items() if k not in ("idx", "label")) for s in miniglue(task).values() for row in s
    ]
    assert len(examples) == len(set(examples))


@pytest.mark.parametrize("task", GLUE)
def test_the_same_seed_gives_the_same_examples(task: str) -> None:
    assert miniglue(task, 20, 10, seed=3) == miniglue(task, 20, 10, seed=3) != miniglue(task, 20, 10, seed=4)


@pytest.mark.parametrize("task", sorted(set(GLUE) - {"stsb"}))
def test_no_class_is_rare(task: str) -> None:
    examples = miniglue(task)["train"]
    counts = Counter(row["label"] for row in examples)
    assert min(counts.values()) > 0.25 * len(examples)


def test_a_quarter_of_the_words_is_not_in_train() -> None:
    held_out = {entry[0] for entries in (PEOPLE, THINGS) for number, entry in enumerate(entries) if number % 4 == 3}
    splits = miniglue("mrpc")
    words = {name: " ".join(r["sentence1"] for r in splits[name]).lower() for name in ("train", "validation")}
    assert not [word for word in held_out if f"the {word} " in words["train"]]
    assert [word for word in held_out if f"the {word} " in words["validation"]]


def test_test_labels_are_hidden_as_in_glue() -> None:
    assert {row["label"] for row in miniglue("rte")["test"]} == {-1}


def test_unlabeled_documents_differ_and_have_several_sentences() -> None:
    documents = list(sentences(500))
    assert len(set(documents)) > 490
    assert all(document.count(".") >= 2 for document in documents)
