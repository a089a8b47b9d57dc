"""A column that a local file lacks is found before any library of models is imported."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers.commands import compose_config

from peftkit.config import RunConfig
from peftkit.config.checks.columns import column_errors
from peftkit.config.checks.paths import path_errors

ROWS = {"Review": ["a", "b"], "labels": ["x", "y"]}


def write(file: Path) -> Path:
    rows = [dict(zip(ROWS, values, strict=True)) for values in zip(*ROWS.values(), strict=True)]
    if file.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(ROWS), file)
    elif file.suffix == ".jsonl":
        file.write_text("{}\n" + "\n".join(map(json.dumps, rows)))
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        mark = "\t" if file.suffix == ".tsv" else ";"
        file.write_text("".join(f"{mark.join(row)}\n" for row in [ROWS.keys(), *(row.values() for row in rows)]))
    return file


def errors(data: Path, *overrides: str, task: str = "classification") -> list[str]:
    words = [f"task={task}", f"task.dataset={data}", "model=bert", "method=lora", *overrides]
    return list(column_errors(RunConfig.from_config(compose_config(words))))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
def test_the_message_has_the_nearest_columns_as_overrides(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    for data in (file, tmp_path):
        if data == tmp_path:
            file.rename(tmp_path / f"train{file.suffix}")
        (message,) = errors(data, "task.text=[reviews]", "task.label=label")
        assert "no column reviews, label, but Review, labels" in message
        fix = message.split("set ")[1].split(" (")[0].split()
        assert fix == ["task.text=[Review]", "task.label=labels"] and errors(data, *fix) == []


def test_a_missing_column_of_ids_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("ticket_no,text,label\n1,a,x\n2,b,y\n")
    (message,) = errors(file, "task.text=[text]", "task.id=ticket_nr")
    assert "no column ticket_nr" in message and "set task.id=ticket_no" in message
    assert errors(file, "task.text=[text]", "task.id=ticket_no") == []


def test_a_column_with_outer_spaces_is_shown_in_quotes(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text ,label\na,x\nb,y\n")
    (message,) = errors(file, "task.text=[text]")
    assert "no column text, but 'text ', label; set \"task.text=['text ']\"" in message
    assert errors(file, "task.text=['text ']") == []


@pytest.mark.parametrize(
    ("name", "text", "right", "wrong", "names"),
    [
        ("a.conll", "# about\n\nJoren NNP B-PER\nmet VBD O\n", "tokens", "words", "tokens, column_2, tags"),
        ("a.conllu", "1\tJoren\tJoren\tPROPN\t_\t_\t0\troot\t_\t_\n", "tokens", "form", "id, tokens, lemmas, upos"),
        ("a.json", '{"data": [{"paragraphs": [{"context": "x", "qas": []}]}]}', "context", "passage", "id, title, context"),
        ("a.json", '{"text": "a"}\n{"label": "b"}\n', "text", "txt", "text, label"),
    ],
)  # fmt: skip
def test_the_columns_of_nested_files_are_known(
    tmp_path: Path, name: str, text: str, right: str, wrong: str, names: str
) -> None:
    (tmp_path / name).write_text(text)
    (message,) = errors(tmp_path / name, f"task.text=[{wrong}]", "task.label=null", task="causal_lm")
    assert f"has no column {wrong}, but {names}" in message
    assert errors(tmp_path / name, f"task.text=[{right}]", "task.label=null", task="causal_lm") == []


@pytest.mark.parametrize("text", ['{"text": ["a", "b"], "label": ["x", "y"]}', '{"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}}'])  # fmt: skip
def test_an_object_of_columns_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    (message,) = errors(tmp_path / "a.json", "task.text=[text]")
    assert "orient='records'" in message


def test_the_suggested_split_has_the_nearest_name(tmp_path: Path) -> None:
    for name in ("imdb-train", "imdb-test", "imdb-val"):
        (tmp_path / f"{name}.csv").write_text("text,label\na,x\n")
    (message,) = errors(tmp_path, "task.text=[text]")
    assert message.endswith("set task.splits.train=imdb-train")
    (message,) = errors(tmp_path, "task.text=[text]", "task.splits.train=imdb-train")
    assert message.endswith("set task.splits.validation=[imdb-val]")


def test_only_the_columns_that_a_split_needs_are_missing(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,x\n")
    (tmp_path / "validation.csv").write_text("text\na\n")
    (tmp_path / "extra.csv").write_text("other\na\n")
    assert errors(tmp_path, "task.text=[text]") == []
    assert errors(tmp_path, "task.text=[text]", "task.splits.validation=[extra]")[0].startswith(f"{tmp_path}/extra.csv")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": 1}\nno\n')
    assert "line 2 is not JSON" in errors(tmp_path / "a.jsonl", "task.text=[words]")[0]
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert "a.parquet: " in errors(tmp_path / "a.parquet", "task.text=[text]")[0]
    (tmp_path / "empty.csv").write_text("")
    assert "the file has no rows" in errors(tmp_path / "empty.csv", "task.text=[text]")[0]
    (tmp_path / "twice.csv").write_text("text,text,label\na,b,x\n")
    assert "two columns text; rename one" in errors(tmp_path / "twice.csv", "task.text=[text]")[0]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train-0-of-2.csv").write_text("text,label\n")
    assert "1 of 2 files of the split train" in errors(tmp_path / "folder", "task.text=[text]")[0]


def test_a_split_that_a_folder_lacks_is_named_with_the_likeliest(tmp_path: Path) -> None:
    for name in ("train", "test", "dev"):
        (tmp_path / f"{name}.csv").write_text("text,label\na,x\n")
    assert "not validation; set task.splits.validation=[dev]" in errors(tmp_path, "task.text=[text]")[0]
    assert errors(tmp_path, "task.text=[text]", "task.splits.validation=[dev]") == []
    assert errors(tmp_path / "train.csv", "task.text=[text]") == []


def test_columns_of_conversations_and_corpora(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl")
    assert errors(file, task="instructions") == []  # several forms
    assert "set task.text=[Review]" in errors(file, "task.text=[reviews]", task="language_modeling")[0]


@pytest.mark.parametrize(
    ("names", "hint"),
    [(["a.csv", "b.csv"], "unzip it"), (["[Content_Types].xml"], "save it as csv"), (["a.pdf"], "convert it")],
)
def test_a_file_of_another_type_states_what_to_do(tmp_path: Path, names: list[str], hint: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    words = ["task=classification", f"task.dataset={tmp_path}/a.zip", "task.text=[text]", "model=bert", "method=lora"]
    (message,) = path_errors(RunConfig.from_config(compose_config(words)))
    assert hint in message and f"{tmp_path}/a.zip" in message


def test_a_wrong_column_is_found_without_importing_torch(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv")
    code = (
        "import sys; from peftkit.cli import main\n"
        f"try: main(['task=classification', 'task.dataset={file}', 'task.text=[reviews]', 'model=bert', 'method=lora'])\n"
        "except SystemExit as stop: print(stop.code, *{'torch', 'datasets', 'pandas'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n" and done.stderr.count("\n") == 1 and "task.text=[Review]" in done.stderr


def test_an_input_lacks_a_column_of_its_run(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv")
    run = tmp_path / "run"
    run.mkdir()
    for kind, text, messages in (
        ("classification", ["review"], 1),
        ("preferences", ["Review", "b"], 0),
        ("instructions", ["x"], 0),
    ):
        (run / "result.json").write_text(json.dumps({"run": {"config": {"task": {"kind": kind, "text": text}}}}))
        words = ["job=predict", f"run={run}", f"input={file}"]
        found = list(column_errors(RunConfig.from_config(compose_config(words))))
        assert len(found) == messages and all("rename Review to review" in message for message in found)
    words = ["job=embed", f"input={file}", "embed.column=reviews", "model=minilm"]
    assert "set embed.column=Review" in next(column_errors(RunConfig.from_config(compose_config(words))))
    words = ["job=forgetting", f"run={run}", f"input={file}"]
    assert "no column text" in next(column_errors(RunConfig.from_config(compose_config(words))))
