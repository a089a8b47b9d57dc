"""Columns parsed as Arrow arrays: the same as cell by cell."""

from __future__ import annotations

import math
import random
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset
from helpers.commands import compose_config

from peftkit.config import TaskConfig
from peftkit.data.arrow_columns import (
    arrow_column,
    inferred,
    is_complete,
    list_lengths,
    parse_distinct,
    select,
    texts_of,
)
from peftkit.data.cells import text_of
from peftkit.data.formats.base import label_mask
from peftkit.data.sanity import check_examples

WORDS = ["a film", None, "", "  ", "\u200b", "\ufeff ", "x" * 300, "film "]


def table(cells: Any, kind: Any = None) -> Dataset:
    return Dataset(pa.table({"text": pa.array(cells, kind)}))


def test_blank_texts_are_those_of_python_for_every_character() -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    found = texts_of(table(characters), "text")
    assert found is not None and found.to_pylist() == [text_of(each) for each in characters]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_texts_are_those_of_single_cells(kind: pa.DataType) -> None:
    shuffled = table(WORDS, kind).shuffle(seed=0)  # a table with indices
    found = texts_of(shuffled, "text")
    assert found is not None and found.to_pylist() == [text_of(each) for each in shuffled["text"][:]]


def test_whole_numbers_are_texts_and_other_types_are_not_read() -> None:
    found = texts_of(table([7, None, -1], pa.int8()), "text")
    assert found is not None and found.to_pylist() == ["7", "", "-1"]
    assert texts_of(table([1.5]), "text") is texts_of(table([["a"]]), "text") is texts_of(table([True]), "text") is None


@pytest.mark.parametrize(
    "cells", [[0.0, -0.0, None, 1.5, 0.0], [1, None, 1, -1], [True, None, False, True], ["b", "a", None, "b", ""]]
)
def test_each_distinct_value_is_parsed_once_in_the_order_of_its_first_cell(cells: list[Any]) -> None:
    parsed: list[str] = []

    def parse(cell: Any) -> str:
        parsed.append(repr(cell))
        return repr(cell)

    assert parse_distinct(table(cells), "text", parse) == [*map(repr, cells)]
    assert parsed == list(dict.fromkeys(map(repr, cells)))


def test_numbers_of_32_bits_and_nan_are_parsed_as_python_reads_them() -> None:
    cells = table([0.1, math.nan, 0.1], pa.float32())
    assert parse_distinct(cells, "text", repr) == [*map(repr, cells["text"][:])]
    assert parse_distinct(table([["a"], []]), "text", repr) is None


def test_incomplete_examples_are_left_out() -> None:
    texts = pa.chunked_array([["a", "", "b"], ["c"]])
    kept = is_complete([texts, [["x"], ["y"], [], ["z"]]], [None, 1, 2, 3])
    assert kept.tolist() == [False, False, False, True]
    assert select(texts, kept).to_pylist() == ["c"] and select([1, 2, 3, 4], kept) == [4]
    assert inferred(pa.chunked_array([[None]], pa.int64())) == [None]


def test_repeated_examples_are_counted_as_by_a_set_of_tuples() -> None:
    draw = random.Random(0)
    task = TaskConfig(**compose_config(["task=mrpc"]).task)

    def examples(number: int) -> Dataset:
        rows = [(f"a {draw.randrange(9)}", f"b {draw.randrange(4)}", draw.randrange(2)) for _ in range(number)]
        return Dataset.from_dict(dict(zip(("sentence1", "sentence2", "label"), zip(*rows, strict=True), strict=True)))

    train, validation = examples(30), examples(40)
    columns = ("sentence1", "sentence2", "label")
    known, scored = ([*zip(*(split[name][:] for name in columns), strict=True)] for split in (train, validation))
    repeated = sum(row in {*known} for row in scored)
    (remark,) = check_examples(task, {"train": train, "validation": validation}, ["no", "yes"], may_overlap=False)
    assert 0 < repeated < 40 and remark == f"!! {repeated} of 40 examples of validation occur in train too"


def test_lengths_and_labels_are_those_of_the_rows_of_a_selection() -> None:
    lists = [[1, 2], [], [3], [4, 5, 6]]
    table = Dataset.from_dict({"input_ids": lists, "label": [{"text": ["a"]}, None, {"text": []}, None]})
    chosen = table.select([3, 0, 1])
    assert list_lengths(arrow_column(chosen, "input_ids")) == [3, 2, 0]
    assert label_mask(chosen).tolist() == [False, True, False]
    assert label_mask(Dataset.from_dict({"label": [None, None]})).tolist() == [False, False]
