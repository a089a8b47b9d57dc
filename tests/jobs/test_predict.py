"""Prediction: evaluations and predictions of one run, and of several runs in one batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers import commands

from peftkit.config import UserError
from peftkit.data.miniglue import miniglue
from peftkit.data.tables import read_file

Overrides = Callable[..., list[str]]
TEXTS = {"sst2": ["sentence"], "stsb": ["sentence1", "sentence2"], "mnli": ["premise", "hypothesis"]}


@pytest.fixture
def rated(tiny: Overrides, tmp_path: Path) -> Path:
    """Return the folder of a run that tells good films from bad."""
    file = films(tmp_path / "films.csv", 20)
    overrides = ["task=classification", f"task.dataset={file}", "task.text=[text]", "task.label=label"]
    return commands.finetune(*tiny("bert", *overrides))[0]


def films(file: Path, number: int) -> Path:
    file.parent.mkdir(exist_ok=True)
    rows = [f"the film is {'great' if row % 2 else 'bad'} {row},{['bad', 'good'][row % 2]}" for row in range(number)]
    file.write_text("\n".join(["text,label", *rows]))
    return file


def test_evaluations_on_two_files_lie_side_by_side(rated: Path, tmp_path: Path) -> None:
    commands.evaluate(rated)
    for folder, number in {"a": 6, "b": 8, "c": 6}.items():  # c is a, byte by byte
        commands.evaluate(rated, f"task.dataset={films(tmp_path / folder / 'more films.csv', number)}")
    found = sorted(file.name for file in rated.glob("evaluation-*.json"))
    assert len(found) == 3 and found[0].startswith("evaluation-classification-more-films-")
    assert found[-1] == "evaluation-classification.json"  # of the run's own data
    rows = [pq.read_metadata(file).num_rows for file in rated.glob("predictions-*.parquet")]
    assert sorted(rows) == [2, 6, 8]


@pytest.mark.slow
def test_what_is_written_to_new_text_has_no_likelihood(tiny: Overrides, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text('{"text": "the film", "more": "is great"}\n{"text": "it", "more": "is"}\n' * 4)
    (data / "validation.jsonl").write_text('{"text": "a film", "more": "is bad"}\n{"text": "the film"}\n')
    overrides = ["task=seq2seq", f"task.dataset={data}", "task.text=[text]", "task.label=more"]
    (folder,) = commands.finetune(*tiny("t5", *overrides, "task.max_target_length=3"))
    known, hidden = pq.read_table(folder / "predictions.parquet")["scores"].to_pylist()
    assert len(known) == 2 and hidden is None
    for ending in ("jsonl", "csv", "parquet"):
        commands.predict(folder, data / "validation.jsonl", f"output={tmp_path}/predicted.{ending}")
        predicted = read_file(tmp_path / f"predicted.{ending}").to_list()
        assert [row["scores"] for row in predicted] == [None, None] and all("prediction" in row for row in predicted)


@pytest.fixture(scope="module")
def trained(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of a run, trained once a module: trained("bert", "lora", "sst2")."""
    find = commands.trained_once(checkpoints, tmp_path_factory.mktemp("runs"))

    def trained_on(model: str, method: str, task: str, is_half: bool = False) -> Path:
        return find(model, method, f"task={task}", f"train.bf16={str(is_half).lower()}")

    return trained_on


@pytest.mark.parametrize(
    ("model", "method"),
    [
        pytest.param("bert", "lora", marks=pytest.mark.slow), pytest.param("gpt2", "prefix", marks=pytest.mark.slow),
        pytest.param("bert", "prompt", marks=pytest.mark.slow), pytest.param("gpt2", "adapter", marks=pytest.mark.slow),
        pytest.param("bert", "unipelt", marks=pytest.mark.slow),
        pytest.param("bert", "qlora", marks=pytest.mark.slow), pytest.param("gpt2", "mam", marks=pytest.mark.slow),
        pytest.param("bert", "linear_probe_mix", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_each_row_is_answered_as_by_its_own_run(
    trained: Callable[..., Path], tmp_path: Path, model: str, method: str
) -> None:
    folders, single, rows = [], {}, []
    for task, columns in TEXTS.items():
        folder = trained(model, method, task)
        folders.append(folder)
        first = list(miniglue(task).values())[1][:7]  # validation, or the first of two
        texts = [{column: row[column] for column in columns} for row in first]
        file = tmp_path / f"{task}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in texts))
        commands.predict(folder, file, f"output={tmp_path}/{task}.out.jsonl")
        single[task] = [json.loads(line) for line in (tmp_path / f"{task}.out.jsonl").read_text().splitlines()]
        rows += [{"task": task, "number": number, **row} for number, row in enumerate(texts)]
    mixed = tmp_path / "mixed.jsonl"
    rows = rows[::3] + rows[1::3] + rows[2::3]
    mixed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    commands.predict(folders, mixed, f"output={tmp_path}/out.jsonl", "train.per_device_eval_batch_size=5")
    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        row = json.loads(line)
        expected = single[row["task"]][row["number"]]
        assert row["scores"] == pytest.approx(expected["scores"], abs=3e-3 if method == "qlora" else 1e-5)
        if isinstance(expected["prediction"], str):
            assert row["prediction"] == expected["prediction"]


@pytest.mark.slow
def test_runs_that_do_not_fit_are_refused(trained: Callable[..., Path], tmp_path: Path) -> None:
    lora, mnli = trained("bert", "lora", "sst2"), trained("bert", "lora", "mnli")
    other, full, ia3 = trained("bert", "prefix", "mrpc"), trained("bert", "full", "rte"), trained("bert", "ia3", "cola")
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"task": "sst2", "sentence": "a film ."}) + "\n")
    for folders, message in (
        ([lora, other], "by different methods"), ([lora, full], "same for all examples of a batch"),
        ([lora, ia3], "same for all examples of a batch"), ([lora, lora], "use one run per task"),
        ([lora], "two run folders or more"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            commands.predict(folders, file)
    file.write_text(json.dumps({"task": "wnli", "sentence": "a film ."}) + "\n")
    with pytest.raises(UserError, match=r"row 1 .* is of task wnli; the runs are of sst2, mnli"):
        commands.predict([lora, mnli], file)
    file.write_text(json.dumps({"task": "sst2", "sentence": "a film ."}) + "\n")
    commands.predict([lora, mnli], file)  # no row for one of them
    assert (tmp_path / "rows.predictions.jsonl").is_file()


@pytest.mark.slow
def test_a_head_of_several_layers_is_refused(trained: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"task": "sst2", "sentence": "the film is great ."}) + "\n")
    runs = [trained("roberta", "lora", task) for task in ("sst2", "stsb")]
    with pytest.raises(UserError, match="RobertaClassificationHead has several layers"):
        commands.predict(runs, file)


@pytest.mark.slow
def test_each_row_is_predicted_in_its_runs_precision(trained: Callable[..., Path], tmp_path: Path) -> None:
    folders, single, rows = [], [], []
    for task, is_half in {"sst2": True, "stsb": False}.items():
        folders.append(trained("bert", "lora", task, is_half))
        texts = [{"task": task} | {name: row[name] for name in TEXTS[task]} for row in miniglue(task)["validation"][:4]]
        rows += texts
        single += answers(folders[-1], texts, tmp_path)
    together = answers(folders, rows, tmp_path)
    for row, expected in zip(together, single, strict=True):
        assert row["scores"] == pytest.approx(expected["scores"], abs=1e-6)  # bf16 and fp32 are 1e-4 or more apart


def answers(run: Path | list[Path], rows: list[dict], scratch: Path) -> list[dict]:
    """Return a run's answers to rows, a row at a time: in bf16, a batch of another shape rounds otherwise."""
    (scratch / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    commands.predict(run, scratch / "in.jsonl", f"output={scratch}/out.jsonl", "train.per_device_eval_batch_size=1")
    return [json.loads(line) for line in (scratch / "out.jsonl").read_text().splitlines()]


def test_the_kinds_that_mix_are_those_that_the_matrix_found() -> None:
    cells = json.loads((Path(__file__).parents[2] / "docs" / "reference" / "matrix.json").read_text())
    found = {cell["method"] for cell in cells if cell["extras"].get("mixed")}
    assert found == {
        "lora", "rslora", "qlora", "adapter", "adapter_pfeiffer", "adapter_parallel", "prompt", "p_tuning",
        "prefix", "mam", "unipelt", "linear_probe_mix",
    }  # fmt: skip
