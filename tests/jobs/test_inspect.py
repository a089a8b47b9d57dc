"""job=inspect shows what is wrong with data, and the command that it ends with works when it is typed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["train.num_train_epochs=1", "task.max_train_samples=24", "task.max_eval_samples=12", "train.disable_tqdm=true"]
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def command(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-m", "peftkit", *overrides]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def typed(line: str) -> list[str]:
    """Return the overrides of a command as a shell passes them."""
    program, *overrides = shlex.split(line.replace("python -m peftkit", "peftkit", 1))
    assert program == "peftkit"
    return overrides


@pytest.mark.slow
def test_the_command_that_an_inspection_ends_with_works_when_it_is_typed(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    lines = ["Nr;Der Text der Nachricht;Art"]
    lines += [
        f"{number};Die Sendung {number} kam {'zu spät' if number % 2 else 'gar nicht'} an;{'spät' if number % 2 else 'weg'}"
        for number in range(60)
    ]
    (tmp_path / "meine daten.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    base = ["model=bert", f"model.checkpoint={checkpoints['bert']}", "source=offline"]
    found = command(tmp_path, "job=inspect", "task.dataset=meine daten.csv", *base)
    assert found.returncode == 0, found.stderr
    assert "Duplicates" in found.stdout and "Der Text der Nachricht" in found.stdout
    assert max(map(len, found.stdout.splitlines())) <= 80
    assert (tmp_path / "outputs" / "inspect" / "meine-daten" / "inspect.html").is_file()
    (line,) = (line for line in found.stderr.splitlines() if line.startswith("next: "))
    trained = command(tmp_path, *typed(line.removeprefix("next: ")), *SHORT)
    assert trained.returncode == 0, trained.stderr
    assert list((tmp_path / "outputs").rglob("result.json"))


@pytest.mark.slow
def test_data_that_a_run_would_refuse_is_shown_and_refused(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    (tmp_path / "one.csv").write_text("text,label\n" + "".join(f"a text {number},same\n" for number in range(9)))
    base = ["model=bert", f"model.checkpoint={checkpoints['bert']}", "source=offline"]
    found = command(tmp_path, "job=inspect", "task.dataset=one.csv", "task.text=[text]", *base)
    assert found.returncode == 2 and "have only the label same" in found.stderr
    assert "the column label has one value" in " ".join(found.stdout.split())
    page = (tmp_path / "outputs" / "inspect" / "one" / "inspect.html").read_text(encoding="utf-8")
    assert "A training run refuses this data" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["task=sst2"],
        ["task=stsb"],
        ["task=retrieval", "task.dataset=pairs.jsonl"],
        ["task=language_modeling", "task.dataset=corpus.txt"],
        ["task=token_classification", "task.dataset=tags.jsonl", "task.text=[tokens]", "task.label=tags"],
    ],
    ids=lambda overrides: overrides[0].partition("=")[2],
)
def test_every_kind_of_task_is_inspected(overrides: list[str], tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    texts = [f"sentence number {number} is about topic {number % 7}" for number in range(40)]
    (tmp_path / "corpus.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "pairs.jsonl").write_text(
        "".join(f'{{"query": "what is {text}", "document": "{text}"}}\n' for text in texts)
    )
    (tmp_path / "tags.jsonl").write_text(
        "".join(f'{{"tokens": ["a", "b{number}"], "tags": ["O", "B-X"]}}\n' for number in range(40))
    )
    model = "gpt2" if "task=language_modeling" in overrides else "bert"  # this BERT's tokenizer has no mask token
    words = (f"model={model}", f"model.checkpoint={checkpoints[model]}", "source=offline")
    found = command(tmp_path, "job=inspect", *overrides, *words)
    assert found.returncode == 0, found.stderr
    assert "Lengths in tokens" in found.stdout and "next: python -m peftkit" in found.stderr


def served_answers(folder: Path, overrides: list[str], request: str) -> list[dict[str, Any]]:
    """Return the predictions that a server of these overrides sends for a request, then stop it."""
    words = [sys.executable, "-m", "peftkit", *overrides, "serve.port=0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        deadline = Timer(300, server.kill)
        deadline.start()
        try:
            lines = []
            while not (address := re.search(r"http://\S+/", (lines or [""])[-1])):
                lines.append(server.stderr.readline())
                assert lines[-1], "".join(lines)
            asked = urllib.request.Request(
                f"{address[0]}predict", request.encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(asked, timeout=60) as reply:
                answers = json.load(reply)["predictions"]
        finally:
            deadline.cancel()
            server.terminate()
            server.stderr.read()
    assert server.returncode == 143
    return answers  # type: ignore[no-any-return]


@pytest.mark.slow
def test_the_commands_of_the_tutorial_work(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    text = (ROOT / "docs" / "tutorials" / "tickets.md").read_text(encoding="utf-8")
    commands = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", "").splitlines()]
    commands = [line for line in commands if not line.startswith("pip install")]
    assert len(commands) == 12
    (tmp_path / "new_tickets.csv").write_text("text\nWhere is my parcel?\nThe invoice is wrong\n")
    small = ["model=bert", f"model.checkpoint={checkpoints['bert']}", "source=offline"]
    for line in commands:
        if line.startswith("curl"):
            continue  # sent while the server runs
        if not line.startswith("python -m peftkit"):
            done = subprocess.run(
                shlex.split(line),
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                check=True,
            )
            assert Path(done.stdout.strip()).is_file()
            continue
        overrides = [each for each in typed(line) if each != "model=minilm"]
        run = next(
            iter(sorted((tmp_path / "outputs").rglob("result.json"), key=lambda file: file.stat().st_mtime)[-1:]), None
        )
        overrides = [each.replace("run=DIR", f"run={run and run.parent}") for each in overrides]
        if "job=serve" in overrides:
            (request,) = (shlex.split(each)[2] for each in commands if each.startswith("curl"))
            answers = served_answers(tmp_path, overrides, request)
            assert len(answers) == 2 and {"prediction", "confidence", "suggestion"} <= answers[0].keys()
            continue
        trains = "recipe=own_data" in overrides
        found = command(tmp_path, *overrides, *(small if "model=minilm" in line else []), *(SHORT if trains else []))
        assert found.returncode == 0, f"{line}\n{found.stderr}"
        if "job=inspect" in overrides:
            assert "next: python -m peftkit recipe=own_data task.dataset=tickets" in found.stderr
            assert "task.text=[text] task.label=queue" in found.stderr
    # twelve of the sweep, the first of which is the run before it, and the calibrated one
    assert len(list((tmp_path / "outputs").rglob("result.json"))) == 13
