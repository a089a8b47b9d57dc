"""The zip has the format of the GLUE benchmark's site; otherwise it is refused or marked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from datasets import Dataset
from helpers import commands
from helpers.commands import check, compose_config
from helpers.glue_site import PUBLISHED, faults
from omegaconf import OmegaConf

from peftkit.config import RunConfig, UserError
from peftkit.config.source import Source
from peftkit.data.datasets import TaskDataset
from peftkit.data.miniglue import miniglue
from peftkit.jobs.submission import (
    SUBMISSION_FILES,
    choose_runs,
    invalid_reason,
    predict_test_set,
    prediction_file,
    read_test_set,
)
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardRun
from peftkit.results.run_folder import write_predictions

TASKS = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
FILES = {file.name: file for file in SUBMISSION_FILES}


def submit(*overrides: str) -> None:
    given = ["job=submission", *overrides]
    if refused := check(given):
        raise UserError("; ".join(refused))
    commands.run(given)


def trained(checkpoints: dict[str, Path], out: Path, task: str, seed: int = 0) -> Path:
    return commands.finetune(
        "model=bert", f"model.checkpoint={checkpoints['bert']}", "source=offline", f"out={out}", f"task={task}",
        f"seed={seed}", "task.max_train_samples=8", "task.max_eval_samples=8", "train.max_steps=1", "train.bf16=false",
        "train.disable_tqdm=true",
    )[0]  # fmt: skip


@lru_cache
def default_config() -> str:
    return json.dumps(commands.choose([])[0].to_dict())


def made(
    out: Path, task: str, method: str = "lora", seed: int = 0, value: float = 0.5, rows: int = 8,
    reason: str | None = None, rate: float = 1e-3,
) -> Path:  # fmt: skip
    """Write the result of a run that was never trained: enough to choose by."""
    data = {"kind": "folder", "name": f"glue/{task}", "revision": task, "substituted_for": None}
    task_part = {"name": task, "suite": "glue", "splits": {"train": "train", "validation": ["validation"]}}
    config = json.loads(default_config())
    config["seed"], config["method"]["name"], config["train"]["learning_rate"] = seed, method, rate
    config["task"] |= task_part
    record = {
        "run": {"config": config, "overrides": [f"method={method}", f"task={task}", f"seed={seed}", "out=elsewhere"]},
        "scores": {} if reason else {"accuracy": {"value": value, "higher_is_better": True}},
        "audit": {
            "sources": {"model": {"kind": "hub", "name": "google-bert/bert-base-uncased"}, "data": data},
            "rows": {"train": 8, "validation": rows},
        },
        "meta": {"seed": seed, "device": "cpu", "status": "failed" if reason else "finished", "reason": reason},
    }
    folder = out / task / f"{method}-seed-{seed}-{rate}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(record))
    return folder


def file_text(
    tmp_path: Path, name: str, ids: Sequence[Any], predictions: Sequence[Any], labels: list[str] | None = None,
    dropped: int = 0, counts: dict[str, Any] | None = None,
) -> str:  # fmt: skip
    """Return the prediction file of a run with these predictions for rows with these ids."""
    spec = FILES[name]
    made(tmp_path, spec.trained_on)
    (result,) = collect([tmp_path])
    assert isinstance(result, BoardRun)
    names = labels or (None if spec.labels is None else list(spec.labels))
    result.audit.update(label_names=names, label_counts={"train": counts or {}})
    file = tmp_path / "predictions.parquet"
    write_predictions(file, {"id": list(ids), "split": [spec.split] * len(ids), "prediction": list(predictions)})
    rows = TaskDataset(
        {spec.split: Dataset.from_dict({"id": list(ids)})}, names, Source("folder", "x"), {spec.split: dropped}
    )
    return prediction_file(spec, result, rows, file)


@pytest.fixture(scope="module")
def mnli(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> BoardRun:
    out = tmp_path_factory.mktemp("glue")
    trained(checkpoints, out, "mnli")
    (result,) = collect([out])
    assert isinstance(result, BoardRun)
    return result


def choice(*overrides: str) -> RunConfig:
    config = OmegaConf.to_container(compose_config(["job=submission", *overrides]), resolve=True)
    return RunConfig.from_config(config, overrides=overrides)  # type: ignore[arg-type]


def test_the_diagnostics_are_answered_by_the_mnli_run_as_it_predicts(mnli: BoardRun, tmp_path: Path) -> None:
    test = read_test_set(choice(), mnli, "ax")
    text = prediction_file(FILES["AX"], mnli, test, predict_test_set(choice(), mnli, "ax", test))
    file = tmp_path / "rows.jsonl"
    texts = [{name: row[name] for name in ("premise", "hypothesis")} for row in miniglue("ax")["test"]]
    file.write_text("".join(json.dumps(row) + "\n" for row in texts))
    commands.predict(mnli.folder, file, f"output={tmp_path}/out.jsonl")
    predicted = [json.loads(line)["prediction"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert text.splitlines() == ["index\tprediction", *(f"{number}\t{label}" for number, label in enumerate(predicted))]


def test_what_was_answered_is_not_answered_again(mnli: BoardRun) -> None:
    rows = read_test_set(choice(), mnli, "mnli")
    file = predict_test_set(choice(), mnli, "mnli", rows)
    before = file.stat().st_mtime_ns
    assert predict_test_set(choice(), mnli, "mnli", rows).stat().st_mtime_ns == before
    other = TaskDataset(rows.splits, rows.label_names, Source("folder", "other", "rows"), rows.dropped)
    assert predict_test_set(choice(), mnli, "mnli", other).stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("name", "predictions", "expected"),
    [
        ("CoLA", [0, 1], ["0", "1"]), ("SST-2", [1, 0], ["1", "0"]), ("WNLI", [0, 1], ["0", "1"]),
        ("RTE", [0, 1], ["entailment", "not_entailment"]), ("QNLI", [1, 0], ["not_entailment", "entailment"]),
        ("MNLI-m", [0, 1, 2], ["entailment", "neutral", "contradiction"]),
        ("STS-B", [-0.25, 2.34567, 5.2], ["0.000", "2.346", "5.000"]),
    ],
)  # fmt: skip
def test_predictions_are_written_with_the_labels_of_the_site(
    tmp_path: Path, name: str, predictions: list, expected: list[str]
) -> None:
    lines = file_text(tmp_path, name, range(len(expected)), predictions).splitlines()
    assert [line.split("\t")[1] for line in lines[1:]] == expected


def test_rows_stand_in_the_order_of_the_benchmark(tmp_path: Path) -> None:
    assert file_text(tmp_path, "CoLA", [2, 0, 1], [0, 1, 1]) == "index\tprediction\n0\t1\n1\t1\n2\t0\n"


def test_labels_are_taken_by_name_whatever_their_order(tmp_path: Path) -> None:
    text = file_text(tmp_path, "CoLA", [0, 1], [0, 1], labels=["acceptable", "unacceptable"])
    assert text == "index\tprediction\n0\t1\n1\t0\n"


def test_a_row_without_text_is_given_the_usual_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"not_duplicate": 7, "duplicate": 5}
    text = file_text(tmp_path, "QQP", [0, 2], [1, 1], dropped=1, counts=counts)
    assert text == "index\tprediction\n0\t1\n1\t0\n2\t1\n"
    assert "QQP: 1 examples without text" in capsys.readouterr().err


@pytest.mark.parametrize("ids", [[1, 2], [0, 0], ["a", "b"]])
def test_rows_that_the_benchmark_would_not_know_are_refused(tmp_path: Path, ids: list) -> None:
    with pytest.raises(UserError, match="column idx does not number the examples from 0 to 1"):
        file_text(tmp_path, "CoLA", ids, [0, 1])


def test_labels_of_ones_own_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has labels bad, good, the benchmark has unacceptable, acceptable"):
        file_text(tmp_path, "CoLA", [0], [0], labels=["bad", "good"])


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="predicts nan; train it"):
        file_text(tmp_path, "STS-B", [0], [float("nan")])


def test_a_test_set_of_another_size_is_no_benchmark() -> None:
    rows = TaskDataset({"test": Dataset.from_dict({"id": [0, 1]})}, None, Source("folder", "x"), {"test": 0})
    assert invalid_reason(FILES["WNLI"], rows) == "there are 2 examples, and 146 in the benchmark's test set"


def test_a_missing_task_is_named_with_its_reason_and_the_command(tmp_path: Path) -> None:
    for task in TASKS[:-2]:
        made(tmp_path, task)
    made(tmp_path, "rte", reason="out of memory")
    with pytest.raises(UserError) as refused:
        submit(f"out={tmp_path}")
    assert (
        "no finished run of lora on rte (failed: out of memory), wnli, and a submission has all nine tasks; train: "
        in str(refused.value)
    )
    # where this command looks, whatever out= the runs had
    assert str(refused.value).endswith(f"python -m peftkit -m method=lora task=rte,wnli seed=0 out={tmp_path}")


def test_two_methods_are_not_mixed(tmp_path: Path) -> None:
    for task in TASKS:
        made(tmp_path, task, "lora" if task != "rte" else "ia3")
    with pytest.raises(
        UserError,
        match=r"model=bert method=lora \(google-.*\), model=bert method=ia3 .* one model and method; set model=",
    ):
        submit(f"out={tmp_path}")
    with pytest.raises(UserError, match=r"no finished run of ia3 on cola, sst2"):
        submit(f"out={tmp_path}", "method=ia3")


def test_the_best_seed_on_validation_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task in TASKS:
        for seed, value in enumerate((0.6, 0.8, 0.7)):
            made(tmp_path, task, seed=seed, value=value)
    with pytest.raises(UserError, match="no finished run of a GLUE task with these settings"):
        submit(f"out={tmp_path}", "train.learning_rate=0.002")
    overrides = [f"out={tmp_path}", "train.learning_rate=0.001"]
    chosen = choose_runs(choice(*overrides))
    assert [(result.task, result.seed) for result in chosen] == [(task, 1) for task in TASKS]
    assert capsys.readouterr().err.count("0.8000 on validation, best of 3") == 9


def test_runs_scored_on_other_rows_have_no_best(tmp_path: Path) -> None:
    for task in TASKS:
        made(tmp_path, task)
    made(tmp_path, "cola", seed=1, rows=4)
    with pytest.raises(UserError, match="runs of cola were scored on different examples"):
        submit(f"out={tmp_path}")


def test_runs_that_the_user_names_are_one_of_each_task(tmp_path: Path) -> None:
    folders = [made(tmp_path, task) for task in TASKS]
    other = made(tmp_path, "cola", "ia3")
    with pytest.raises(UserError, match="runs=: no run of rte, wnli"):
        submit(f"runs=[{','.join(map(str, folders[:-2]))}]")
    with pytest.raises(UserError, match=r"^runs=: no run of sst2, "):
        submit(f"runs=[{folders[0]}]")
    with pytest.raises(UserError, match="two runs of cola"):
        submit(f"runs=[{','.join(map(str, [*folders, other]))}]")


@pytest.mark.parametrize(
    ("overrides", "answer"),
    [
        (["output=answers.txt"], "expected a file that ends in .zip"),
        (["recipe=lora_glue"], "job=submission ignores recipe=lora_glue"),
        (["data_root=/nowhere"], "data_root=/nowhere: no such folder"),
        (["runs=[/nowhere/a,/nowhere/b]"], "runs=/nowhere/a contains no result.json"),
        (["results=[x]"], "results= is not for job=submission, only for job=leaderboard"),
    ],
)
def test_what_the_job_cannot_use_is_refused(overrides: list[str], answer: str) -> None:
    assert any(answer in sentence for sentence in check(["job=submission", *overrides]))


def test_the_checker_takes_what_is_published_and_sees_planted_faults(tmp_path: Path) -> None:
    word = {"0|1": "1", r"[0-4]\.\d+|5\.0+": "2.500"}
    texts = {
        name: "index\tprediction\n" + "".join(f"{n}\t{word.get(labels, 'entailment')}\n" for n in range(size))
        for name, (size, labels) in PUBLISHED.items()
    }
    planted = {
        "STS-B.tsv": texts["STS-B.tsv"].replace("2.500", "5.001", 1), "RTE.tsv": texts["RTE.tsv"] + "3000\tentailment\n",
        "WNLI.tsv": texts["WNLI.tsv"].replace("0\t1", "0\tentailment"), "CoLA.tsv": texts["CoLA.tsv"].replace("\n7\t", "\n8\t"),
        "AX.tsv": texts["AX.tsv"].replace("index", "id"), "diagnostic.tsv": "",
    }  # fmt: skip
    for name, files in {"right": texts, "wrong": {**texts, **planted}}.items():
        with ZipFile(tmp_path / f"{name}.zip", "w") as packed:
            for file, text in files.items():
                packed.writestr(file, text)
    assert faults(tmp_path / "right.zip") == []
    assert {fault.split()[0] for fault in faults(tmp_path / "wrong.zip")} == set(planted)


@pytest.mark.slow
def test_generated_data_makes_a_valid_zip_that_is_marked(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in TASKS:
        trained(checkpoints, tmp_path, task)
    submit(f"out={tmp_path}", f"output={tmp_path}/mine.zip")
    (file,) = tmp_path.glob("*.zip")
    assert file.name == "not-for-upload-mine.zip"
    assert "NOT FOR UPLOAD" in capsys.readouterr().err
    found = faults(file)  # but for the size, which is miniglue's
    assert len(found) == 11 and all(" rows, not " in fault for fault in found)
    first = file.read_bytes()
    submit(f"out={tmp_path}", f"output={tmp_path}/mine.zip")
    assert "rte: predicted already" in capsys.readouterr().err and file.read_bytes() == first
