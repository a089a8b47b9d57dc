"""The steps of the tutorial about own code, performed in an empty folder: the files fit, and the commands end on a board."""

from __future__ import annotations

import csv
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import check
from helpers.pages import commands_of, run_command, steps_of, write_files

import peftkit
from peftkit.config import UserError
from peftkit.config.own_code import open_code
from peftkit.metrics import METRICS, check_own_metrics, find_metric, score

ROOT = Path(__file__).resolve().parents[1]
STEPS = steps_of((ROOT / "docs" / "tutorials" / "own-code.md").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the working folder, with the files of the tutorial; its module and metric are forgotten at the end."""
    write_files(STEPS, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("mymodule", None)
    METRICS.pop("cost_of_errors", None)


def test_the_commands_of_the_tutorial_compose(folder: Path) -> None:
    for command in commands_of(STEPS)[:2]:
        words = shlex.split(command)[3:]
        extra = Path(words[1]) if words[0] == "-cd" else None
        assert check([word for word in words if "=" in word], extra) == []


def test_the_metric_of_the_tutorial_is_computed_and_checked(folder: Path) -> None:
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 2, (2, 50))
    with open_code(["mymodule"]):
        check_own_metrics(["accuracy", "cost_of_errors"])
        found = score(["cost_of_errors"], predictions, labels)["cost_of_errors"]
        several = find_metric("cost_of_errors").scorer(labels, np.stack([predictions, labels]))(np.ones((1, 50)))
    costs = [0 if a == b else 5 if a == 1 else 1 for a, b in zip(labels, predictions, strict=True)]
    assert found == {"value": pytest.approx(np.mean(costs)), "higher_is_better": False}
    assert several.tolist() == [[pytest.approx(np.mean(costs)), 0.0]]


@pytest.mark.parametrize(
    ("module", "body", "message"),
    [
        ("plain_number", "return (labels == predictions).mean()", "returned a float64; return mean"),
        ("too_large", "return mean(9.0 * (labels != predictions))", r"is 4.5, outside of its range=\(0, 1\)"),
        ("failing", "return mean(labels / missing)", "name 'missing' is not defined"),
    ],
)
def test_a_wrong_metric_is_refused_before_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, body: str, message: str
) -> None:
    head = "from peftkit.metrics.registry import mean, metric\n\n\n@metric('classes')\n"
    (folder / f"{module}.py").write_text(f"{head}def {module}_metric(labels, predictions):\n    {body}\n")
    with open_code([module]), pytest.raises(UserError, match=message):
        check_own_metrics([f"{module}_metric"])
    monkeypatch.delitem(METRICS, f"{module}_metric")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("allow_code=[mymodul]", "no such package or module"),
        ("allow_code=[mymodule.py]", "without dots; use allow_code=[mymodule]"),
        ("allow_code=[unfinished]", "allow_code=[unfinished]: unfinished.py, line 1: "),
        ("allow_code=[mymodule] task.metrics=[cost_of_error]", "did you mean task.metrics=[cost_of_errors]?"),
        ("task.metrics=[cost_of_errors]", "or type allow_code=[mypackage] for one of your own"),
        ("allow_code=[mymodule] collator=mymodule.TokenDropout", "use collator._target_=mymodule.TokenDropout"),
        ("allow_code=[mymodule] collator.share=0.1", "set collator._target_=mymodule.Collator"),
        (
            "allow_code=[mymodule] collator._target_=mymodule.TokenDropout collator.shar=1",
            "did you mean collator.share?",
        ),
        ("collator._target_=mymodule.TokenDropout", "type allow_code=[mymodule]"),
        ("allow_code=[mymodule] method=peft method.config._target_=mymodule.RescaleConfg", "mymodule.RescaleConfig?"),
        ("allow_code=[mymodule] method=peft method.config._target_=RescaleConfig", "=mymodule.RescaleConfig"),
    ],
)
def test_what_is_mistyped_names_what_to_type(folder: Path, overrides: str, message: str) -> None:
    (folder / "unfinished.py").write_text("def metric(:\n")
    errors = check(["task=sst2", "source=offline", *overrides.split()])
    assert [error for error in errors if message in error], errors


@pytest.mark.slow
def test_the_tutorial_ends_on_a_board(folder: Path, checkpoints: dict[str, Path]) -> None:
    for command in commands_of(STEPS):
        if "run=DIR" in command:
            run = next(file.parent for file in folder.rglob("rescale/*/result.json"))
            command = command.replace("DIR", str(run))
        done = run_command(command, folder, checkpoints["bert"], package=ROOT)
        assert done.returncode == 0, done.stderr
    assert '"prediction"' in done.stdout
    table = (folder / "outputs" / "leaderboard" / "leaderboard.csv").read_text(encoding="utf-8")
    entries = [entry for entry in csv.DictReader(table.splitlines()) if entry.get("cost_of_errors")]
    assert {"rescale", "lora"} <= {entry["method"] for entry in entries}
    assert len(peftkit.leaderboard(folder / "outputs").runs) == 5
