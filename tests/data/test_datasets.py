"""User data as labeled examples: labels stay unchanged, dropped examples are counted, and file errors state the cause."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from helpers.commands import compose_config

from peftkit.config import TaskConfig, UserError
from peftkit.data.datasets import TaskDataset, load_task_dataset
from peftkit.data.formats.classification import SequenceClassificationFormat, TextToTextFormat
from peftkit.data.tables import read_file


def task_of(data: Path, *overrides: str, kind: str = "classification") -> TaskConfig:
    words = (f"task={kind}", f"task.dataset={data}", "task.text=[text]", *overrides)
    return TaskConfig(**compose_config(list(words)).task)


def rows_of(data: Path, *overrides: str, kind: str = "classification") -> TaskDataset:
    return load_task_dataset(task_of(data, *overrides, kind=kind), None, "offline")


def folder(at: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (at / f"{name}.csv").write_text(text)
    return at


def named(rows: TaskDataset, split: str) -> list[str | None]:
    assert rows.label_names is not None
    return [None if label is None else rows.label_names[label] for label in rows.splits[split]["label"]]


def parquet(file: Path, table: Dataset) -> None:
    table.to_parquet(str(file))


# hidden labels


def test_an_empty_validation_label_is_hidden_and_an_empty_training_example_is_dropped(tmp_path: Path) -> None:
    rows = rows_of(folder(tmp_path, train="text,label\na,x\nb,y\nc,\n", validation="text,label\na,y\nb,\n,x\n"))
    assert named(rows, "train") == ["x", "y"]
    assert named(rows, "validation") == ["y", None]
    assert rows.dropped == {"train": 1, "validation": 1}


def test_minus_one_is_a_label_of_a_regression_on_user_data(tmp_path: Path) -> None:
    rows = rows_of(
        folder(tmp_path, train="text,label\na,-1\nb,0.5\n", validation="text,label\na,-1.0\nb,\n"), kind="regression"
    )
    assert list(rows.splits["train"]["label"]) == [-1.0, 0.5]
    assert list(rows.splits["validation"]["label"]) == [-1.0, None]


@pytest.mark.parametrize(("task", "hidden"), [("sst2", -1), ("stsb", -1.0)])
def test_glue_hides_its_test_labels_by_minus_one(tmp_path: Path, task: str, hidden: float) -> None:
    part = TaskConfig(**compose_config([f"task={task}", "task.splits.validation=[test]"]).task)
    (tmp_path / task).mkdir()
    for split, labels in {"train": [1, 0], "test": [hidden, hidden]}.items():
        columns = {column: ["a", "b"] for column in part.text}
        pq.write_table(pa.table({**columns, "label": labels}), tmp_path / task / f"{split}.parquet")
    rows = load_task_dataset(part, str(tmp_path), "offline")
    assert list(rows.splits["test"]["label"]) == [None, None]


def test_a_class_label_of_minus_one_is_hidden(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["3", "2", "1"])})
    parquet(tmp_path / "train.parquet", Dataset.from_dict({"text": ["a", "b"], "label": [0, 2]}, features=features))
    parquet(
        tmp_path / "validation.parquet", Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=features)
    )
    rows = rows_of(tmp_path)
    assert rows.label_names == ["3", "2", "1"]
    assert named(rows, "train") == ["3", "1"]  # an id, though 2 is a name too
    assert named(rows, "validation") == ["2", None]


def test_hidden_labels_have_a_mask(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    folder(tmp_path, train="text,label\na,-1\nb,2\n", validation="text,label\na,-1\nb,\n")
    task = task_of(tmp_path, kind="regression")
    encoded = SequenceClassificationFormat(task, tokenizer).encode(
        load_task_dataset(task, None, "offline").splits["validation"]
    )
    assert encoded.has_label.tolist() == [True, False]
    assert encoded.labels[0] == -1 and math.isnan(encoded.labels[1])
    task = task_of(tmp_path)
    encoded = SequenceClassificationFormat(task, tokenizer).encode(
        load_task_dataset(task, None, "offline").splits["validation"]
    )
    assert encoded.has_label.tolist() == [True, False]
    assert encoded.labels.tolist() == [0, -1]
    nothing = Dataset.from_dict({"id": [0], "text": ["a"], "label": [None]})
    assert SequenceClassificationFormat(task, tokenizer).encode(nothing).has_label.tolist() == [False]


def test_text_to_text_refuses_minus_one_and_skips_only_a_hidden_label(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoints["t5"])
    folder(tmp_path, train="text,label\na,-1\nb,2\n", validation="text,label\na,4\nb,\n")
    task = task_of(tmp_path, kind="regression")
    splits, words = load_task_dataset(task, None, "offline").splits, TextToTextFormat(task, tokenizer, "seq2seq")
    encoded = words.encode(splits["validation"])
    np.testing.assert_array_equal(encoded.labels, [4, math.nan])
    with pytest.raises(UserError, match=r"-1.0 is outside 0 to 5"):
        words.encode(splits["train"])


# names of classes


def test_a_number_that_train_lacks_is_not_a_class_id(tmp_path: Path) -> None:
    folder(tmp_path, train="text,label\na,1\nb,2\nc,3\n", validation="text,label\na,0\nb,1\n")
    with pytest.raises(
        UserError, match=r"label 0 of validation is not among train's 1, 2, 3; .*task.labels=\[0,1,2,3\]"
    ):
        rows_of(tmp_path)
    assert named(rows_of(tmp_path, "task.labels=[0,1,2,3]"), "validation") == ["0", "1"]
    with pytest.raises(UserError, match="label 0 of validation is not among 1, 2, 3"):
        rows_of(tmp_path, "task.labels=[1,2,3]")


def test_an_empty_cell_does_not_rename_classes(tmp_path: Path) -> None:
    folder(tmp_path, train="text,label\na,10\nb,2\nc,\n", validation="text,label\na,2\nb,10\n")
    rows = rows_of(tmp_path)
    assert rows.label_names == ["2", "10"]
    assert named(rows, "validation") == ["2", "10"]
    (tmp_path / "train.csv").unlink()
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": [10.0, 2.0, None]}), tmp_path / "train.parquet")
    assert rows_of(tmp_path).label_names == ["2", "10"]
    assert named(rows_of(tmp_path), "validation") == ["2", "10"]


def test_labels_may_be_ids_of_given_names(tmp_path: Path) -> None:
    folder(tmp_path, train="text,label\na,1\nb,0\n", validation="text,label\na,0\nb,\nc,1\n")
    assert named(rows_of(tmp_path, "task.labels=[no,yes]"), "validation") == ["no", None, "yes"]
    folder(tmp_path, validation="text,label\na,2\n")
    with pytest.raises(UserError, match="label 2 of validation is not among no, yes"):
        rows_of(tmp_path, "task.labels=[no,yes]")


def test_class_labels_keep_their_names_whatever_their_order(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    for split in ("train", "validation"):
        columns = {"text": [f"{split} a", f"{split} b"], "label": [0, 1]}
        parquet(tmp_path / f"{split}.parquet", Dataset.from_dict(columns, features=features))
    assert named(rows_of(tmp_path, "task.labels=[good,bad]"), "train") == ["bad", "good"]
    assert named(rows_of(tmp_path, "task.labels=[no,yes]"), "train") == ["no", "yes"]
    with pytest.raises(UserError, match="has the classes bad, good"):
        rows_of(tmp_path, "task.labels=[good,fine]")


@pytest.mark.parametrize("rare", range(20))
def test_a_class_of_one_example_may_be_in_validation_only(tmp_path: Path, rare: int) -> None:
    lines = [f"a{number},{'rare' if number == rare else ('often', 'other')[number % 2]}" for number in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]))
    assert rows_of(tmp_path / "rows.csv").label_names == ["often", "other", "rare"]


def test_a_word_that_only_validation_has_is_a_class(tmp_path: Path) -> None:
    folder(tmp_path, train="text,label\na,x\nb,y\n", validation="text,label\na,z\n")
    assert rows_of(tmp_path).label_names == ["x", "y", "z"]


def test_a_regression_refuses_a_word(tmp_path: Path) -> None:
    folder(tmp_path, train="text,label\na,1\nb,nan\n", validation="text,label\na,1\n")
    with pytest.raises(UserError, match="label nan is not a number; leave it empty"):
        rows_of(tmp_path, kind="regression")


# splits


@pytest.mark.parametrize("other", ["dev", "test", "val"])
def test_another_split_is_suggested_before_a_tenth_is_held_out(tmp_path: Path, other: str) -> None:
    folder(tmp_path, train="text,label\na,x\nb,y\n", **{other: "text,label\nc,x\n"})
    with pytest.raises(UserError, match=rf"not validation; set task.splits.validation=\[{other}\]"):
        rows_of(tmp_path)
    assert set(rows_of(tmp_path, f"task.splits.validation=[{other}]").splits) == {"train", other}


def test_a_tenth_is_held_out_where_there_is_only_train(tmp_path: Path) -> None:
    folder(tmp_path, train="text,label\n" + "a,x\nb,y\n" * 10)
    rows = rows_of(tmp_path)
    assert {name: len(table) for name, table in rows.splits.items()} == {"train": 18, "validation": 2}
    with pytest.raises(UserError, match="has the splits train, not dev"):
        rows_of(tmp_path, "task.splits.validation=[dev]")


def test_a_missing_train_split_is_named(tmp_path: Path) -> None:
    folder(tmp_path, training="text,label\na,x\n", validation="text,label\na,x\n")
    with pytest.raises(UserError, match=r"not train; set task.splits.train=training"):
        rows_of(tmp_path)


def test_two_files_of_one_split_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, train="text,label\na,1\nb,2\n", validation="text,label\nc,1\n")
    (tmp_path / "train.jsonl").write_text('{"text": "c", "label": 1}\n')
    with pytest.raises(UserError, match=r"two files for the split train, train.csv and train.jsonl; .* one of them"):
        rows_of(tmp_path)
    (tmp_path / "train.jsonl").rename(tmp_path / "train.jsonl.old")
    assert len(rows_of(tmp_path).splits["train"]) == 2


# files


@pytest.mark.parametrize("word", ["None", "NA", "N/A", "null", "nan", "NaN", "n/a"])
@pytest.mark.parametrize(("ending", "tab"), [(".csv", ","), (".tsv", "\t")])
def test_words_that_pandas_reads_as_empty_stay_words(tmp_path: Path, ending: str, tab: str, word: str) -> None:
    for split in ("train", "validation"):
        lines = [("text", "label"), (word, "x"), (split, word)]
        (tmp_path / f"{split}{ending}").write_text("\n".join(tab.join(line) for line in lines))
    rows = rows_of(tmp_path)
    assert list(rows.splits["train"]["text"]) == [word, "train"]
    assert named(rows, "train") == ["x", word]
    assert rows.dropped == {"train": 0, "validation": 0}


def test_cells_are_read_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('\ufefftext,idx,n\r\n007,1,\r\n"a ""b"",\nc",2,3\r\n\r\n', encoding="utf-8", newline="")
    table = read_file(file)
    assert table.to_dict() == {"text": ["007", 'a "b",\nc'], "idx": [1, 2], "n": [None, 3]}


def test_a_quote_in_a_tsv_does_not_consume_lines(tmp_path: Path) -> None:
    file = tmp_path / "rows.tsv"
    file.write_text('text\tlabel\n"twas late\tx\nb\ty\n"so" he said\tx\n')
    assert list(read_file(file)["text"]) == ['"twas late', "b", '"so" he said']


def test_json_lines_are_read_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "2020-01-01"}\n{"text": "a\u2028b", "label": "x"}\n\n', encoding="utf-8")
    assert read_file(file).to_dict() == {"text": ["2020-01-01", "a\u2028b"], "label": [None, "x"]}
    (tmp_path / "rows.json").write_text(json.dumps([{"text": "a"}]))
    assert read_file(tmp_path / "rows.json").to_dict() == {"text": ["a"]}


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("empty.csv", b"", "no rows"),
        ("header.csv", b"text,label\n", "no rows"),
        ("long.csv", b"text,label\na,x\na,b,x\n", "line 3: it has 3 cells, but the header has 2"),
        ("short.csv", b"text,label\na\n", "line 2: it has 1 cells"),
        ("open.csv", b'text,label\n"a,x\nb,y\n', "line 3: unexpected end of data"),
        ("lone.csv", b'text,label\n"a,x\n"b",y\n', "line 3: .*quote"),
        ("twice.csv", b"text,text\na,x\n", "two columns text"),
        ("latin.csv", "text,label\nça,x\n".encode("latin-1"), "not in UTF-8"),
        ("latin.jsonl", '{"text": "ça"}\n'.encode("latin-1"), "not in UTF-8"),
        ("tab.tsv", b"text\tlabel\na\tb\tx\n", "line 2: it has 3 cells"),
        ("empty.jsonl", b"", "no rows"),
        ("cut.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("words.jsonl", b'"a"\n', "one object per line"),
        ("mixed.jsonl", b'{"a": 1}\n{"a": "x"}\n', "column a has .* a whole number in row 1 and a text in row 2"),
        ("cut.json", b'[{"text": "a"}', "correct the file"),
        ("empty.json", b"[]", "no rows"),
        ("text.parquet", b"text", "correct the file"),
    ],
)
def test_an_error_names_the_file_and_the_cause(tmp_path: Path, name: str, content: bytes, cause: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: .*{cause}") as refused:
        read_file(file)
    assert "\n" not in str(refused.value)


def test_one_example_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,x\n")
    with pytest.raises(UserError, match=r"rows.csv: one example cannot be both"):
        rows_of(tmp_path / "rows.csv")


# scores


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_only_labeled_examples_are_scored_and_all_are_predicted(tmp_path: Path, kind: str) -> None:
    from types import SimpleNamespace

    from peftkit import training
    from peftkit.data.formats import Encoded
    from peftkit.pipeline.evaluate import evaluate_splits

    numbers = [1, 0, 1] if kind == "classification" else [-1.0, 2.0, 0.5]
    logits = np.array([[0.0, 1], [1, 0], [0, 1]] if kind == "classification" else [[-1.0], [2.0], [0.5]])
    hidden = -1 if kind == "classification" else math.nan
    splits = {
        "some": Encoded(Dataset.from_dict({"labels": [0] * 3}), [1] * 3, 0, np.array([*numbers[:2], hidden]), np.array([True, True, False])),
        "none": Encoded(Dataset.from_dict({"labels": [0] * 3}), [1] * 3, 0, np.array([hidden] * 3), np.array([False] * 3)),
    }  # fmt: skip
    metrics = ["accuracy"] if kind == "classification" else ["pearson", "mean_squared_error"]
    run = SimpleNamespace(task=SimpleNamespace(kind=kind, metrics=metrics, text=[], label_order=None))
    rows = SimpleNamespace(splits={name: Dataset.from_dict({"id": [0, 1, 2]}) for name in splits})
    bundle = SimpleNamespace(
        format=SequenceClassificationFormat(run.task, None, names=["a", "b"] if kind == "classification" else None),
        tokenizer=None,
    )  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:  # a model with these logits
        patch.setattr(training, "predict_scores", lambda *_: training.ModelScores(logits, 1.0, None))
        scores, _ = evaluate_splits(run, bundle, None, splits, rows, tmp_path / "p.parquet")  # type: ignore[arg-type]
    wanted = (
        {"accuracy_some": 1.0} if kind == "classification" else {"pearson_some": 1.0, "mean_squared_error_some": 0.0}
    )
    assert {name: entry["value"] for name, entry in scores.items()} == pytest.approx(wanted)
    written = pq.read_table(tmp_path / "p.parquet").to_pydict()
    assert written["label"] == [*numbers[:2], None, None, None, None]
    assert written["prediction"] == numbers * 2
