"""Jobs under torchrun: their results are those of one process, written once, or they are refused before they load."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import commands
from helpers.fork_server import ForkServer
from helpers.two_processes import run_two, torchrun

from peftkit import cli
from peftkit.cli import main
from peftkit.config import JOBS, UserError
from peftkit.config.checks.job import job_errors

Overrides = Callable[..., list[str]]
SEVERAL = {"finetune", "plan", "evaluate", "ood", "predict", "forgetting", "downstream", "submission"}


def test_a_job_whose_work_is_not_divided_is_refused_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    (config,) = commands.choose(["task=mrpc", "method=lora"])
    for processes in (1, 2):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        for name in JOBS:
            message = f"job={name} runs in one process; start it without torchrun and accelerate launch"
            is_refused = processes == 2 and name not in SEVERAL
            assert (message in job_errors(replace(config, job=name))) == is_refused, name


@pytest.fixture
def run(tiny: Overrides, tmp_path: Path) -> Path:
    """Return a run whose folder is called one, and which has a copy called two."""
    (folder,) = commands.finetune(*tiny("bert", "task=mrpc", "method=lora", "train.bf16=false"))
    for name in ("one", "two"):
        shutil.copytree(folder, tmp_path / name)
    texts = {f"sentence{part}": [f"The film {number} is {part} times good." for number in range(7)] for part in (1, 2)}
    pd.DataFrame(texts).to_csv(tmp_path / "pairs.csv", index=False)
    pd.DataFrame(texts)[:1].to_csv(tmp_path / "pair.csv", index=False)  # less than one for each process
    return tmp_path / "one"


@pytest.mark.slow
def test_two_processes_write_what_one_writes_once(run: Path, fork_server: ForkServer, tmp_path: Path) -> None:
    """Scores of two processes are equal to those of one to 1e-5, as batches differ; what is printed is rounded."""
    for job, *more in (
        ("evaluate", "source=offline"),
        ("predict", "input=pairs.csv", "output={}.parquet"),
        ("predict", "input=pair.csv", "output={}1.parquet"),
        ("predict", "input='a fine film || a good film'"),
        ("ood", "task=qqp", "source=offline", "output={}.json"),
        ("forgetting", "source=offline"),
    ):
        printed = []
        for name, entry in (("one", "peftkit.cli:main"), ("two", "helpers.two_processes:main")):
            arguments = [f"job={job}", f"run={name}", *(each.format(name) for each in more)]
            done = fork_server.run(arguments, tmp_path, entry=entry)
            assert done.code == 0, done.output
            printed.append(re.sub(r"\d\.\d{6,}", lambda number: f"{float(number[0]):.4f}", done.stdout))
        assert printed[0] == printed[1], job
    for one, two in (
        *((run / name, tmp_path / "two" / name) for name in ("predictions-mrpc.parquet", "predictions.parquet")),
        (tmp_path / "one.parquet", tmp_path / "two.parquet"),
        (tmp_path / "one1.parquet", tmp_path / "two1.parquet"),
    ):
        tables = [pd.read_parquet(file) for file in (one, two)]
        assert tables[0]["prediction"].tolist() == tables[1]["prediction"].tolist()
        np.testing.assert_allclose(*(np.stack(table["scores"].tolist()) for table in tables), atol=1e-5)
    curves = [
        json.loads((tmp_path / name / "result.json").read_text())["forgetting"]["curve"] for name in ("one", "two")
    ]
    assert curves[0] == [pytest.approx(point, abs=1e-5) for point in curves[1]]


@pytest.mark.slow
def test_two_processes_merge_the_adapter_that_they_start_from_once(
    tiny: Overrides, fork_server: ForkServer, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(
        "".join(f"The film {number} is a warm story of a town.\n" for number in range(400))
    )
    (folder,) = commands.finetune(
        *tiny("gpt2", "task=language_modeling", f"task.dataset={tmp_path}/text.txt", "method=lora")
    )
    command = tiny("gpt2", "job=downstream", f"run={folder}", "task=mrpc", "method=ia3")
    done = fork_server.run(command, tmp_path, entry="helpers.two_processes:main")
    assert done.code == 0, done.output
    assert done.stderr.count("is merged into its base") == 1 and (folder / "merged" / "config.json").is_file()
    (gain,) = json.loads((folder / "result.json").read_text())["language"]["downstream"].values()
    assert gain["seeds"].keys() == {"0"}


@pytest.mark.slow
def test_torchrun_scores_once_and_does_not_merge(run: Path, tmp_path: Path) -> None:
    done = torchrun("-m", "peftkit", "job=evaluate", f"run={run}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mrpc accuracy") == 1 and (run / "evaluation-mrpc.json").is_file()
    done = torchrun("-m", "peftkit", "job=merge", f"run={run}", cwd=tmp_path)
    assert done.returncode and done.stderr.count("job=merge runs in one process") == 1
    assert not (run / "merged").exists()


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_job_in_both_with_its_reason(run: Path, tmp_path: Path) -> None:
    def process(rank: int) -> None:
        if rank == 1:
            torch.nn.Module.load_state_dict = broken  # type: ignore[assignment,method-assign]
        with pytest.raises(UserError, match="Input/output error"):
            commands.predict(run, tmp_path / "pairs.csv", f"output={tmp_path}/found.csv")

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    assert run_two(process) == [0, 0]
    assert not [*tmp_path.glob("*found.csv*")]


@pytest.mark.slow
def test_a_process_that_alone_refuses_the_command_ends_both_with_its_reason(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def process(rank: int) -> None:
        os.chdir((tmp_path, "/")[rank])
        main(["job=evaluate", f"run={run.name}"])

    assert run_two(lambda _: main(["job=evaluate", "run=nothing"])) == [2, 143]
    assert "process 1" not in capfd.readouterr().err
    monkeypatch.setattr(cli, "REFUSAL_DELAY", 0.5)
    assert run_two(process) == [143, 2]
    printed = capfd.readouterr().err
    assert "peftkit: process 1: run=one contains no result.json" in printed and "Traceback" not in printed
