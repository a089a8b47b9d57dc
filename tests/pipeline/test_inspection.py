"""What an inspection finds in columns, labels, duplicates and scripts, each computed a second way."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import accuracy_score, f1_score

from peftkit.cli.overrides import read_command
from peftkit.config import UserError
from peftkit.pipeline.inspection.columns import columns_section, guess_columns, predicted_share, read_columns
from peftkit.pipeline.inspection.duplicates import Example, duplicate_sections
from peftkit.pipeline.inspection.labels import label_section, number_section
from peftkit.pipeline.inspection.minhash import near_duplicates
from peftkit.pipeline.inspection.page import render_page
from peftkit.pipeline.inspection.sections import Inspection, Section, Share

TICKETS = {
    "id": [f"T{number}" for number in range(12)],
    "day": ["2024-05-01", "2024-05-02"] * 6,
    "shop": ["north"] * 12,
    "team": ["a", "a", "a", "b", "b", "b", "c", "c", "c", "c", "c", "c"],
    "body": [f"message number {number} about something that broke" for number in range(12)],
    "topic": ["x", "x", "x", "y", "y", "y", "z", "z", "z", "z", "z", "z"],
}


def test_text_and_label_are_guessed_and_suspicious_columns_are_named() -> None:
    table = Dataset.from_dict(TICKETS)
    columns = read_columns(table)
    guess = guess_columns(columns, None, "tickets.csv")
    assert (guess.text, guess.label) == (["body"], "topic")
    assert "7 words" in guess.reasons[0] and "3 values" in guess.reasons[1] and "team" in guess.reasons[1]
    section = columns_section(columns, table, guess.text, [guess.label], guess)
    assert [row[2] for row in section.rows] == ["text", "date", "text", "text", "text", "text"]
    assert len(section.warnings) == 2
    assert "shop has one value" in section.warnings[0] and "team has one value for each topic" in section.warnings[1]
    assert section.notes == ["id: a value of its own in each row, an id"]


@pytest.mark.parametrize(
    ("columns", "word"),
    [({"a": [1, 2, 3]}, "no column of texts"), ({"a": ["so it is", "it was", "so so"]}, "few enough values")],
)
def test_data_without_text_or_label_is_refused(columns: dict[str, list], word: str) -> None:
    with pytest.raises(UserError, match=word):
        guess_columns(read_columns(Dataset.from_dict(columns)), None, "file")


def test_texts_do_not_give_away_answers_that_are_all_different() -> None:
    table = Dataset.from_dict(
        {"text": [f"a text {n}" for n in range(6)], "summary": [f"its end {n}" for n in range(6)]}
    )
    section = columns_section(read_columns(table), table, ["text"], ["summary"], None)
    assert section.warnings == []


def test_the_predicted_share_is_that_of_leaving_each_row_out() -> None:
    rng = random.Random(0)
    values = [rng.randrange(15) for _ in range(120)]
    labels = [value % 3 if rng.random() < 0.6 else rng.randrange(3) for value in values]
    commonest = Counter(labels).most_common(1)[0][0]
    right = 0
    for number, (value, label) in enumerate(zip(values, labels, strict=True)):
        others = Counter(b for at, (a, b) in enumerate(zip(values, labels, strict=True)) if a == value and at != number)
        best = [name for name, count in others.items() if count == max(others.values())] or [commonest]
        right += best == [label]
    found = Counter(labels).most_common(1)[0][1] / 120
    assert predicted_share([f"v{value}" for value in values], labels) == (right / 120, found)
    assert predicted_share(range(120), labels)[0] < 0.6  # numbers in bins: a column of ids predicts nothing


def test_near_duplicates_are_those_of_all_pairs() -> None:
    rng = random.Random(1)
    vocabulary = ["".join(rng.choices("abcdefgh", k=rng.randint(3, 8))) for _ in range(300)]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 40))) for _ in range(150)]
    texts += [text[:at] + "zz" + text[at + 1 :] for text in texts[:80] if (at := rng.randrange(len(text))) >= 0]
    texts += ["", "é", "a", "日本語のテキスト", "x" * 3000]
    sets = [{text[:1000][at : at + 5] for at in range(max(len(text[:1000]) - 4, 1))} for text in texts]
    exact = {
        (a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in itertools.combinations(range(len(texts)), 2)
    }
    wanted = {pair for pair, similarity in exact.items() if similarity >= 0.8}
    pairs, is_complete = near_duplicates(texts, 0.8)
    assert is_complete and len(wanted) > 40
    assert {(pair.first, pair.second) for pair in pairs} <= wanted
    assert len(wanted) - len(pairs) <= 2  # 99 % at 0.8
    assert all(pair.similarity == pytest.approx(exact[pair.first, pair.second]) for pair in pairs)


def test_duplicates_across_splits_and_conflicting_labels_are_counted() -> None:
    long = "the parcel was left at the wrong door and the neighbour has gone on holiday until the end of {}"
    examples = [
        Example("train", "Where is my order?", "a"),
        Example("train", "where is my ORDER", "a"),
        Example("train", long.format("july"), "a"),
        Example("train", "I want my money back", "b"),
        Example("validation", "where is my order!!", "b"),
        Example("validation", long.format("june"), "a"),
        Example("validation", "nothing like this was written before", "a"),
    ]
    counts, near, conflicts = duplicate_sections(examples, "train")
    assert counts.rows == [("train", 4, 1, 0), ("validation", 3, 0, 0), ("validation, also in train", 3, 1, 1)]
    assert "2 of 3 examples of validation (66.7 %) are in train too, 1 of them nearly" in counts.warnings[0]
    assert [row[1] for row in near.rows] == ["train, a", "validation, a"]
    assert conflicts.rows == [("a 2, b 1", "Where is my order?")]


def test_the_scores_of_the_most_frequent_label_are_those_of_scikit_learn() -> None:
    train = ["a"] * 50 + ["b"] * 30 + ["c"] * 5
    section = label_section(
        {"train": train, "validation": ["a", "b", "d", None]}, "train", "task.class_weights=balanced"
    )
    answers = ["a"] * len(train)
    macro = f1_score(train, answers, average="macro", labels=["a", "b", "c", "d"], zero_division=0)
    assert f"{100 * accuracy_score(train, answers):.1f} %" in section.lines[-1] and f"{macro:.3f}" in section.lines[-1]
    assert section.rows[0] == ("a", 50, 1, pytest.approx(51 / 88))
    text = " ".join(section.warnings)
    for words in (
        "a has 10.0 times",
        "fewer than 10 examples in train: c",
        "train lacks, which cannot be learned: d",
        "no example of c",
    ):
        assert words in text


def test_numbers_are_described_by_their_quartiles() -> None:
    numbers = [1.0, 2.0, 4.0, 9.0, None]
    (row,) = number_section({"train": numbers}).rows
    assert row[1:] == (4, *np.quantile([1, 2, 4, 9], [0, 0.25, 0.5, 0.75, 1]), 4.0, pytest.approx(np.std([1, 2, 4, 9])))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.addresses += [str(value) for name, value in attrs if name in ("href", "src", "action")]


def test_a_page_escapes_everything_and_loads_nothing() -> None:
    bad = "<script>alert(1)</script>\"'&"
    section = Section(bad, [bad], [bad], (bad, "share", f"{bad} text"), [(bad, Share(0.25), bad)], [bad])
    text = render_page(Inspection(bad, bad, [section], bad, bad))
    page = Tags()
    page.feed(text)
    assert page.tags["script"] == page.tags["img"] == page.tags["link"] == 0 and page.tags["caption"] == 1
    assert all(address.startswith("#") for address in page.addresses)
    assert "25.0 %" in text and not re.search(r"https?://|@import|url\(", text)


@pytest.mark.parametrize(
    ("typed", "task"),
    [
        (["job=inspect", "task.dataset=x.csv"], ["task=classification"]),
        (["job=inspect", "task.dataset=x.csv", "task=regression"], []),
        (["job=inspect", "task.dataset=x.csv", "recipe=own_data"], []),
        (["job=inspect"], []),
        (["task.dataset=x.csv"], []),
    ],
)
def test_own_data_is_a_classification_where_nothing_else_is_chosen(typed: list[str], task: list[str]) -> None:
    assert read_command(typed).overrides == [*typed, *task]
