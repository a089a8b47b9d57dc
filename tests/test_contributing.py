"""The steps of CONTRIBUTING.md, performed in a copy of the package: each page adds its thing in a few files, and it trains."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.pages import Step, run_command, steps_of, write_files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # the files of the package that a page may add or change
    "Add a task": 1, "Add a metric": 1, "Add a method": 1, "Add a tuner of your own": 2, "Add a family of models": 2,
    "Add a job": 2, "Add a kind of task": 3, "Keep your code in your own package": 0,
}  # fmt: skip


def steps(page: str) -> list[Step]:
    """Return the steps of a page."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    body = text.split(f"\n## {page}\n", 1)[1].split("\n## ", 1)[0]
    return steps_of(body)


def perform(page: str, copy: Path) -> set[str]:
    """Copy the package, perform a page's edits there, and return the files that are new or changed."""
    for name in ("peftkit", "conf", "recipes"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    written = write_files(steps(page), copy)
    return {file for file in written if file.startswith(("peftkit/", "conf/", "recipes/"))}


@pytest.mark.parametrize(("page", "limit"), PAGES.items())
def test_a_page_changes_few_files(page: str, limit: int, tmp_path: Path) -> None:
    assert min(limit, 1) <= len(perform(page, tmp_path)) <= limit


@pytest.fixture(scope="module")
def mpnet(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny checkpoint of a family without a record."""
    from transformers import AutoTokenizer, MPNetConfig, MPNetModel

    tokenizer = AutoTokenizer.from_pretrained(str(checkpoints["bert"]))
    folder = tmp_path_factory.mktemp("mpnet")
    sizes: dict[str, int] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    MPNetModel(MPNetConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes)).save_pretrained(
        str(folder)
    )
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_adds_works(page: str, tmp_path: Path, checkpoints: dict[str, Path], mpnet: Path) -> None:
    perform(page, tmp_path)
    (tmp_path / "reviews.csv").write_text(
        "review,stars\n" + "".join(f"a film of {n} hours,{n % 3}\n" for n in range(60))
    )
    choices = [{"context": f"the actor {n}", "endings": ["sang", "slept", "ran"], "label": n % 3} for n in range(60)]
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(choice) + "\n" for choice in choices))
    commands = [line for step in steps(page) if step.kind == "run" for line in step.text.strip().splitlines()]
    assert commands
    for command in commands:
        family = re.search(r"\bmodel=(\w+)", command)
        done = run_command(
            command, tmp_path, {**checkpoints, "mpnet": mpnet}.get(family[1] if family else "bert", mpnet)
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_tuner_of_a_package_in_the_working_folder_trains_and_predicts(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    perform("Keep your code in your own package", tmp_path)
    tuner = next(step.text for step in steps("Add a tuner of your own") if step.file.endswith(".py"))
    (tmp_path / "mypackage" / "rescale.py").write_text(tuner, encoding="utf-8")
    chosen = (
        "method=peft method.config._target_=mypackage.rescale.RescaleConfig method.config.target_modules=all-linear"
    )
    command = f"python -m peftkit task=sst2 model=bert {chosen} method.learning_rate=1e-3"
    refused = run_command(command, tmp_path, checkpoints["bert"])
    assert refused.returncode == 2 and "type allow_code=[mypackage]" in refused.stderr
    done = run_command(f"{command} allow_code=[mypackage]", tmp_path, checkpoints["bert"])
    assert done.returncode == 0, done.stderr
    (folder,) = (file.parent for file in (tmp_path / "outputs").rglob("result.json"))
    predict = f"python -m peftkit job=predict run={folder} input=film"
    assert "type allow_code=[mypackage]" in run_command(predict, tmp_path, checkpoints["bert"]).stderr
    assert '"prediction"' in run_command(f"{predict} allow_code=[mypackage]", tmp_path, checkpoints["bert"]).stdout


@pytest.mark.slow
def test_a_fresh_process_knows_a_new_tuner(tmp_path: Path) -> None:
    perform("Add a tuner of your own", tmp_path)
    code = "import peftkit; from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as known; assert 'RESCALE' in known"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
