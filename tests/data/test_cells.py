"""Cells, columns and labels of user data: read as what they are, or refused by column, row and type."""

from __future__ import annotations

import datetime
import json
import uuid
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.commands import compose_config
from transformers import AutoTokenizer

from peftkit.cli.overrides import normalize_override, parse
from peftkit.config import TaskConfig, UserError
from peftkit.config.templates import parse_template
from peftkit.data.cells import id_of, ids_of, text_of
from peftkit.data.datasets import TaskDataset, load_task_dataset
from peftkit.data.formats.base import fill_template, format_of
from peftkit.data.streaming import stream_documents, stream_texts
from peftkit.metrics import METRICS

COLUMNS: dict[str, tuple[list[str], str | None]] = {
    "classification": (["text"], "label"),
    "regression": (["text"], "label"),
    "seq2seq": (["text"], "label"),
    "causal_lm": (["text"], "label"),
    "retrieval": (["text", "label"], None),
    "preferences": (["text", "label", "other"], None),
    "instructions": (["text"], "label"),
    "token_classification": (["text"], "label"),
    "question_answering": (["text", "other"], "label"),
}


@cache
def task_of(kind: str) -> TaskConfig:
    return TaskConfig(**compose_config([f"task={kind}", "task.dataset=x", "task.text=[text]", "task.label=label"]).task)


def load(at: Path, rows: list[dict[str, Any]], kind: str = "classification", **changes: Any) -> TaskDataset:
    """Write rows to a file, as jsonl or, where JSON lacks their types, as parquet, and load them as a task."""
    try:
        file = at / "data.jsonl"
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    except TypeError:
        file = at / "data.parquet"
        pq.write_table(pa.Table.from_pylist(rows), file)
    return load_file(file, kind, **changes)


def load_file(file: Path, kind: str = "classification", **changes: Any) -> TaskDataset:
    text, label = COLUMNS[kind]
    task = replace(task_of(kind), dataset=str(file), **{"text": text, "label": label, **changes})
    return load_task_dataset(task, None, "offline")


def whole(**columns: Any) -> list[dict[str, Any]]:
    """Return rows with the same value in whole columns."""
    return [{"text": f"text {n}", "label": f"label {n % 3}", "other": f"other {n}", **columns} for n in range(20)]


# values that are no text


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize(
    "value", [{"body": "a", "n": 1}, [[1]], 1.5, True, datetime.datetime(2024, 1, 1), Decimal("1.5"), [1, 2]], ids=str
)
def test_a_value_that_is_no_text_is_refused_by_column_row_and_type(kind: str, value: Any, tmp_path: Path) -> None:
    column = "other" if kind == "preferences" else "text"  # equal prompts cannot be split
    with pytest.raises(UserError, match=rf"column {column} of \w+, rows [0-9, .]+: .*(not|a turn)"):
        load(tmp_path, whole(**{column: value}), kind=kind)


@pytest.mark.parametrize("kind", ["classification", "seq2seq", "instructions", "retrieval", "preferences"])
def test_a_label_that_is_no_text_is_refused(kind: str, tmp_path: Path) -> None:
    for value in ({"name": "a"}, [["a"]], [1, 0]):
        with pytest.raises(UserError, match=r"column label of \w+, rows"):
            load(tmp_path, whole(label=value), kind=kind)
    for labels in (["a", "b"], "['a', 'b']", [1, 0], "[1, 0]"):
        with pytest.raises(UserError, match=r"rows 1, .*multi-label"):
            load(tmp_path, whole(label=labels))


def test_an_object_names_a_field_that_can_be_read(tmp_path: Path) -> None:
    rows = [{"text": {"title": "t", "body": f"body {n}"}, "label": {"name": "ab"[n % 2], "n": 1}} for n in range(20)]
    with pytest.raises(UserError, match=r"with the fields title, body.*set task.text=\[text.body\]"):
        load(tmp_path, rows, label="label.name")
    with pytest.raises(UserError, match=r"set task.label=label.name"):
        load(tmp_path, rows, text=["text.body"])
    found = load(tmp_path, rows, text=["text.body"], label="label.name")
    assert found.label_names == ["a", "b"] and found.splits["train"]["text.body"][0].startswith("body")


def test_a_list_of_labels_is_several_references(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"text {n}", "label": [f"the film {n}", "a story"][: 1 + n % 2]} for n in range(20)]
    examples = load(tmp_path, rows, "seq2seq").splits["train"]
    assert "several references" in capsys.readouterr().err
    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoints["t5"]))
    references = format_of(task_of("seq2seq"), "seq2seq", None, tokenizer).encode(examples)
    expected = {row["text"]: row["label"] for row in rows}
    assert references.labels == [expected[text] for text in examples["text"]]
    first = [tokenizer(text_target=known[0])["input_ids"] for known in references.labels]
    assert references.inputs["labels"][:] == first
    assert METRICS["exact_match"].score(references.labels, ["a story"] * len(first)) == np.mean(
        ["a story" in known for known in references.labels]
    )


def test_lists_of_one_label_are_texts(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": [f"film {n}"]} for n in range(20)]
    labels = load(tmp_path, rows, "seq2seq").splits["train"]["label"][:]
    assert all(isinstance(label, str) for label in labels)


def test_bytes_are_read_as_utf8_or_refused_by_row(tmp_path: Path) -> None:
    rows = [{"text": f"ü {n}".encode(), "label": b"ab"[n % 2 : n % 2 + 1]} for n in range(20)]
    found = load(tmp_path, rows)
    assert found.label_names == ["a", "b"] and found.splits["train"]["text"][0].startswith("ü ")
    with pytest.raises(UserError, match=r"column text of train, row 8: the bytes are not UTF-8|validation, row 8"):
        load(tmp_path, [row if n != 7 else {**row, "text": b"\xff"} for n, row in enumerate(rows)])


def test_streams_read_texts_and_refuse_other_values(tmp_path: Path) -> None:
    for name, value, problem in (("a", b"\xffa", "row 2.*UTF-8"), ("b", [1.5], "row 2.*a list of numbers")):
        pq.write_table(pa.table({"text": pa.array([None, value])}), tmp_path / f"{name}.parquet")
        with pytest.raises(UserError, match=rf"{name}.parquet: {problem}"):
            list(stream_texts(tmp_path / f"{name}.parquet", "text"))
    pq.write_table(pa.table({"text": ["ü".encode()], "id": [datetime.date(2024, 1, 2)]}), tmp_path / "c.parquet")
    assert list(stream_texts(tmp_path / "c.parquet", "text")) == [("2024-01-02", "ü")]
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n{"text": {"body": "b"}}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"line 2: column text: an object with the fields body"):
        list(stream_documents(str(tmp_path / "d.jsonl")))


def test_texts_stay_as_they_are() -> None:
    cells = (" a ", 7, None, float("nan"), "  ", "ü".encode(), "NaT", "nan", "None")
    assert [text_of(cell) for cell in cells] == [" a ", "7", "", "", "", "ü", "NaT", "nan", "None"]


# names of columns


@pytest.mark.parametrize(
    "name", ["label", "id", "idx", "input_ids", "labels", "a.b", "a[0]", "my text", "текст", "a=b"]
)
def test_any_name_may_be_a_column_of_texts(name: str, tmp_path: Path) -> None:
    rows = [{name: f"text {n}", "category": "ab"[n % 2]} for n in range(20)]
    found = load(tmp_path, rows, text=[name], label="category")
    assert len(found.splits["train"]) == 18 and found.label_names == ["a", "b"]


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("[a[0]]", ["a[0]"]), ("[a b,c(d)]", ["a b", "c(d)"]), ("['a,b',c[1]]", ["a,b", "c[1]"]),
        ("[текст]", ["текст"]), ("[don't]", ["don't"]), ("[0,true]", ["0", "true"]), ("[a,b]", ["a", "b"]), ("[]", []),
    ],
)  # fmt: skip
def test_names_of_columns_need_no_quotes(typed: str, value: list[str]) -> None:
    for key in ("task.text", "task.labels"):
        override = normalize_override(f"{key}={typed}")
        assert parse(override).value() == value and normalize_override(override) == override


def test_sweeps_and_interpolations_of_columns_stay() -> None:
    for override in ("task.label=a,b", "task.text=[a],[b]", "task.label=choice(a,b)", "task.label=${seed}"):
        assert normalize_override(override) == override


def test_templates_name_columns_with_dots_brackets_and_spaces() -> None:
    texts = {"a.b": "{x}", "c[0]": "y", "my text": "z"}
    template = "{a.b} {{k}} {c[0]} {my text}"
    assert fill_template(template, texts) == "{x} {k} y z"
    assert [name for _, name in parse_template(template)] == [*texts, None]
    with pytest.raises(ValueError, match=r"single \{"):
        list(parse_template("a { b"))


# ids


def test_ids_are_integers_or_texts() -> None:
    name = uuid.UUID(int=5)
    moment = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC)
    cells = [3, "x", b"x", moment, datetime.date(2024, 1, 2), Decimal("1.50"), name, None, name.bytes]
    assert [id_of(cell) for cell in cells] == [
        3, "x", "x", "2024-01-01T12:00:00+00:00", "2024-01-02", "1.50", str(name), None, name.bytes.decode(),
    ]  # fmt: skip
    assert ids_of([1, "a", None], "here") == ["1", "a", None] and ids_of([1, 2], "here") == [1, 2]
    with pytest.raises(UserError, match="here, row 2: a list"):
        ids_of([1, [2]], "here")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(lambda n: datetime.datetime(2024, 1, 1 + n), "2024-01-"), (lambda n: Decimal(n) / 4, ""), (uuid.UUID, "")],
    ids=["timestamp", "decimal", "uuid"],
)
def test_ids_of_other_types_are_read_before_training(value: Any, expected: str, tmp_path: Path) -> None:
    numbers = [f"{n:032x}" if value is uuid.UUID else n for n in range(20)]
    columns = {"text": [f"t {n}" for n in range(20)], "label": list("ab" * 10)}
    ids = pa.array([value(n).bytes if value is uuid.UUID else value(n) for n in numbers])
    if value is uuid.UUID:
        ids = pa.ExtensionArray.from_storage(pa.uuid(), ids.cast(pa.binary(16)))
    pq.write_table(pa.table({"id": ids, **columns}), tmp_path / "data.parquet")
    found = load_file(tmp_path / "data.parquet").splits["validation"]["id"]
    assert all(isinstance(name, str) and name.startswith(expected) for name in found)
    json.dumps(list(found))


def test_the_column_of_ids_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, start in (("train", 0), ("validation", 20), ("test", 40)):
        rows = [{"id": n, "ticket": {"no": f"T-{n}"}, **row} for n, row in enumerate(labeled(*"abab", start=start))]
        if split == "test":  # is not read
            rows = [{"id": [1], "text": row["text"]} for row in rows]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_file(tmp_path, id="ticket.no")
    assert list(data.splits["validation"]["id"]) == ["T-0", "T-1", "T-2", "T-3"]
    with pytest.raises(UserError, match=r"no column ticket\.nr, .* set task\.id=ticket") as refused:
        load_file(tmp_path, id="ticket.nr")
    assert refused.value.fix == ("task.id=ticket",)
    with pytest.raises(UserError, match="column ticket, rows 1, 2, 3, 4: an object with the fields no, not an id"):
        load_file(tmp_path, id="ticket")
    assert load_file(tmp_path, id="label").splits["validation"]["id"][:] == [*"abab"]
    assert "2 of 4 rows repeat the id of another row in column label" in capsys.readouterr().err


# labels and splits that show nothing


def splits(at: Path, train: list[dict], validation: list[dict]) -> Path:
    for name, rows in {"train": train, "validation": validation}.items():
        (at / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return at


def labeled(*labels: Any, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"text {n}", "label": label} for n, label in enumerate(labels, start=start)]


@pytest.mark.parametrize(
    ("train", "validation", "how"),
    [
        (("neg", "pos"), ("Neg", "Pos"), "case"),
        (("very good", "bad"), ("verygood", "bad"), "spaces"),
        (("very_good", "bad"), ("very good", "bad"), "underscores"),
        (("caf\u00e9", "bar"), ("cafe\u0301", "bar"), "Unicode form"),
        (("pos", "neg"), ("pos\u200b", "neg"), "invisible characters"),
        (("007", "8"), ("7", "8"), "zeros"),
    ],
)
def test_a_spelling_that_train_lacks_is_refused(train: tuple, validation: tuple, how: str, tmp_path: Path) -> None:
    folder = splits(tmp_path, labeled(*train), labeled(*validation, start=9))
    with pytest.raises(UserError, match=rf"never occur in train.*differ by .*{how}.* alone; write {train[0]} for"):
        load_file(folder)


def test_a_label_that_train_lacks_is_stated(tmp_path: Path) -> None:
    found = load_file(splits(tmp_path, labeled("a", "b"), labeled("a", "c", start=9)))
    assert "the label c occurs in validation and never in train" in found.remarks[0]
    folder = splits(tmp_path, labeled(0, 1, 2), labeled(1, 3, start=9))
    with pytest.raises(UserError, match=r"task.labels=\[0,1,2,3\]"):
        load_file(folder)
    found = load_file(folder, labels=["0", "1", "2", "3"])
    assert found.label_names == ["0", "1", "2", "3"]
    assert "the label 3 occurs in validation and never in train" in found.remarks[0]
    with pytest.raises(UserError, match=r"task.labels=\[0,1,2,3\]"):
        load_file(folder, labels=["0", "1", "2"])


@pytest.mark.parametrize(
    ("kind", "label"), [("classification", "pos"), ("regression", 1.5), ("seq2seq", "yes"), ("instructions", "yes")]
)
def test_a_constant_label_is_refused(kind: str, label: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only the label"):
        load(tmp_path, labeled(*[label] * 20), kind=kind)


def test_labels_that_are_all_different_are_refused(tmp_path: Path) -> None:
    folder = splits(tmp_path, labeled(*(f"id {n}" for n in range(20))), labeled("id 1", "id 2", start=90))
    with pytest.raises(UserError, match="each of the 20 training examples has a label of its own"):
        load_file(folder)


@pytest.mark.parametrize(("document", "problem"), [("text", "are equal"), ("one", "every example has the same label")])
def test_pairs_that_show_nothing_are_refused(document: str, problem: str, tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": f"text {n}" if document == "text" else document} for n in range(20)]
    with pytest.raises(UserError, match=problem):
        load(tmp_path, rows, "retrieval")


def test_validation_examples_that_were_trained_on(tmp_path: Path) -> None:
    rows = labeled(*"abab")
    with pytest.raises(UserError, match="every example of validation is a training example"):
        load_file(splits(tmp_path, rows, rows[:3]))
    found = load_file(splits(tmp_path, rows, [*rows[:1], *labeled(*"ab", start=9)]))
    assert found.remarks == ("!! 1 of 3 examples of validation occur in train too",)


@pytest.mark.parametrize("kind", ["classification", "seq2seq"])
def test_texts_that_are_the_label_are_refused(kind: str, tmp_path: Path) -> None:
    rows = [{"text": f"{label} ", "label": label} for label in "abc" * 7]
    with pytest.raises(UserError, match="column text equals the label label"):
        load(tmp_path, rows, kind=kind)


# chats and preferences


def chat(*turns: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"messages": [{"role": "user", "content": f"{n}?"}, *turns]} for n in range(20)]


ANSWER = {"role": "assistant", "content": "Yes."}


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}, "a tool call"),
        ({"role": "tool", "content": "4"}, "a tool call or the answer of a tool"),
        ({"role": "assistant", "content": "a", "function_call": {"name": "f"}}, "a tool call"),
        ({"role": "bot", "content": "a"}, "a turn of bot; use the roles"),
        ({"role": "assistant", "content": ["a", "b"]}, "values of different types"),
        ({"role": "assistant", "content": {"a": "b"}}, "values of different types"),
        ({"role": "assistant", "content": "a", "weight": 0.5}, "weight 0.5; write 0"),
        ({"role": "assistant", "content": "a", "reasoning_content": "b"}, "reasoning_content, which the text"),
    ],
)
def test_turns_with_more_than_a_text_are_refused_by_number(turn: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"column messages (of \w+, rows 1, 2, 3, 4, 5, \.\.\.: |has).*{problem}"):
        load(tmp_path, chat(turn, ANSWER), "instructions", text=["messages"], label=None)


def test_an_answer_of_weight_0_has_no_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = chat({"role": "assistant", "content": "No.", "weight": 0}, {"role": "user", "content": "?"}, ANSWER)
    rows[0]["messages"][-1] = {"role": "assistant", "content": "Sure."}
    found = load(tmp_path, rows, "instructions", text=["messages"], label=None)
    examples = [*found.splits["train"], *found.splits["validation"]]
    assert len(examples) == 20 and {row["label"] for row in examples} == {"Yes.", "Sure."}
    assert all(row["messages"][1] == {"role": "assistant", "content": "No."} for row in examples)
    assert "20 answers of train have weight 0" in capsys.readouterr().err


def test_an_answer_may_be_one_turn_or_repeat_its_prompt_in_other_spaces(tmp_path: Path) -> None:
    def answer(text: str, prompt: str | None = None) -> Any:
        turn = {"role": "assistant", "content": text}
        return turn if prompt is None else [{"role": "user", "content": prompt}, turn]

    for before in (None, " name  dish \n"):
        rows = [
            {"text": f"name dish{' ' * n}", "label": answer("stew", before), "other": answer("no", before)}
            for n in range(2)
        ]
        filler = "x" if before else None
        rows += [{"text": "x", "label": answer("a", filler), "other": answer("b", filler)}] * 3
        found = load(tmp_path, rows, kind="preferences")
        assert found.splits["train"][0]["label (text)"] in ("stew", "a")
