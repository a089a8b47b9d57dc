"""Folders and streams are read as single files are: shards, saved datasets, compression and dialects."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from helpers.commands import compose_config

from peftkit.config import TaskConfig, UserError
from peftkit.data.datasets import TaskDataset, load_task_dataset
from peftkit.data.streaming import corpus_files, stream_documents, stream_texts
from peftkit.data.tables import read_file, read_files, read_tables


def task_of(path: Path, *overrides: str) -> TaskConfig:
    words = ("task=classification", f"task.dataset={path}", "task.text=[text]", *overrides)
    return TaskConfig(**compose_config(list(words)).task)


def load(path: Path, *overrides: str) -> TaskDataset:
    return load_task_dataset(task_of(path, *overrides), None, "offline")


def test_all_shards_are_read_and_one_of_them_alone_is_refused(tmp_path: Path) -> None:
    for number, rows in enumerate((["7", "x"], ["a", "y"], ["b", "x"])):
        Dataset.from_dict({"text": rows[:1], "label": rows[1:]}).to_parquet(
            str(tmp_path / f"train-{number}-of-3.parquet")
        )
        (tmp_path / f"validation_{number}.csv").write_text(f"text,label\n{rows[0]},{'yx'[rows[1] == 'y']}\n")
    splits = load(tmp_path).splits
    assert sorted(splits["train"]["text"]) == sorted(splits["validation"]["text"]) == ["7", "a", "b"]
    with pytest.raises(UserError, match="one of 3 files of the split train; use their folder"):
        load(tmp_path / "train-0-of-3.parquet")
    (tmp_path / "validation_1.csv").write_text("other,label\na,x\n")
    with pytest.raises(UserError, match=r"has the columns other, label, and validation_0\.csv text, label"):
        load(tmp_path)
    (tmp_path / "train-2-of-3.parquet").unlink()
    with pytest.raises(UserError, match="2 of 3 files of the split train"):
        load(tmp_path)


def test_rows_of_json_shards_may_lack_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "b", "n": 1}\n')
    assert read_files([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]).to_dict() == {"text": ["a", "b"], "n": [None, 1]}


def test_a_dataset_that_was_saved_to_disk_is_read(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    table = Dataset.from_dict({"text": ["a", "b"] * 10, "label": [0, 1] * 10}, features=features)
    other = Dataset.from_dict({"text": ["c", "d"] * 10, "label": [0, 1] * 10}, features=features)
    DatasetDict(train=table, validation=other.with_format("numpy")).save_to_disk(
        str(tmp_path / "all"), num_shards={"train": 2, "validation": 1}
    )
    table.save_to_disk(str(tmp_path / "one"))
    data = load(tmp_path / "all")
    assert data.label_names == ["no", "yes"] and {name: len(each) for name, each in data.splits.items()} == {
        "train": 20,
        "validation": 20,
    }
    files, origin = {*(tmp_path / "one").iterdir()}, read_tables(task_of(tmp_path / "one"), None, "offline")[1]
    (tmp_path / "one" / "cache-0123456789abcdef.arrow").touch()
    data = load(tmp_path / "one")
    assert {name: len(each) for name, each in data.splits.items()} == {"train": 18, "validation": 2}
    assert data.source == origin and {*(tmp_path / "one").glob("[!c]*")} == files
    assert len([*(tmp_path / "one").glob("cache-*")]) == 1  # reading writes none
    revision = read_tables(task_of(tmp_path / "all"), None, "offline")[1].revision
    file = tmp_path / "all" / "train" / "data-00001-of-00002.arrow"
    shutil.copy(tmp_path / "one" / "data-00000-of-00001.arrow", file)
    assert read_tables(task_of(tmp_path / "all"), None, "offline")[1].revision != revision
    file.unlink()
    with pytest.raises(UserError, match=r"train lacks data-00001-of-00002\.arrow, one of 2 files"):
        load(tmp_path / "all")
    shutil.rmtree(tmp_path / "all" / "train")
    with pytest.raises(UserError, match="lacks the split train"):
        load(tmp_path / "all")


def test_files_of_macos_and_others_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "a,x\nb,y\n" * 10)
    revision = read_tables(task_of(tmp_path), None, "offline")[1].revision
    (tmp_path / "._train.csv").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / ".DS_Store").write_bytes(b"\x00")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._train.csv").write_bytes(b"\x00\x05")
    (tmp_path / "dataset_info.json").write_text(json.dumps({"splits": 3}))
    assert len(load(tmp_path).splits["train"]) == 18
    assert read_tables(task_of(tmp_path), None, "offline")[1].revision == revision


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "a.parquet"
    )
    with pytest.raises(UserError, match="two columns text; rename one"):
        read_file(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "name", ["a.csv", "a.CSV", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz", "a.jsonl.gz", "b.csv", "c.csv", "d.tsv"]
)
def test_a_stream_yields_what_the_table_has(tmp_path: Path, name: str) -> None:
    file, texts = tmp_path / name, ["a; fine, film", "ça", '"so" he said']
    delimiter = {"b": ";", "d": ","}.get(name[0], "\t" if "tsv" in name else ",")
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    rows = f"text{delimiter}label\n" + "".join(f"{text}{delimiter}x\n" for text in quoted)
    if "jsonl" in name:
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    data = rows.encode("utf-16" if name[0] == "c" else "utf-8-sig")
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    if name == "a.parquet":
        Dataset.from_dict({"text": texts}).to_parquet(str(file))
    assert [record.text for record in stream_texts(file, "text")] == list(read_file(file)["text"]) == texts


def test_hidden_files_of_a_corpus_are_no_documents(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt.gz", "._a.txt", "__MACOSX/c.txt", ".git/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes("ça va\n".encode("utf-16"))
    assert [file.name for file in corpus_files(str(tmp_path)) or []] == ["a.txt", "b.txt.gz"]
    assert [text for text, _ in stream_documents(str(tmp_path))] == ["ça va", "ça va"]
