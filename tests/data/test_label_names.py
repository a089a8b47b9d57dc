"""Labels and verbalizers of recipes may be numbers and booleans, as YAML has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftkit.cli.compose import build_run, open_composer, without_hydra
from peftkit.cli.validate import command_errors
from peftkit.config import UserError
from peftkit.data.datasets import load_task_dataset
from peftkit.data.formats.prompted import verbalizer_of

BOOLEANS = "put them in quotes"


def read(folder: Path, labels: list[object], lines: str) -> tuple[list[str] | None, dict[str, str]]:
    """Return the names of the labels and the verbalizer of a recipe with these lines, on a file with these labels."""
    rows = [{"text": f"{number} {label}", "label": label} for number in range(4) for label in labels]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "recipes").mkdir()
    head = "# @package _global_\ndefaults: [override /task: classification, override /method: zero_shot, _self_]\n"
    task = f"task:\n  dataset: {folder}/data.jsonl\n  text: [text]\n  label: label\n  {lines}\n"
    (folder / "recipes" / "own.yaml").write_text(head + task)
    words = ["recipe=own", "model=gpt2", "source=offline"]
    with open_composer(folder) as composer:
        if errors := command_errors(words, composer, folder, False):
            raise UserError("; ".join(errors))
        run = build_run(without_hydra(composer(words)), "own", words)
    names = load_task_dataset(run.task, None, "offline").label_names
    return names, verbalizer_of(run.task, names, {})


@pytest.mark.parametrize(
    ("labels", "lines", "names", "words"),
    [
        ([0, 1], "labels: [1, 0]", ["1", "0"], ["1", "0"]),
        ([0.0, 1.0], "labels: [0, 1.0]", ["0", "1"], ["0", "1"]),
        ([True, False], "labels: [no, yes]", ["false", "true"], ["false", "true"]),
        ([0, 1], "verbalizer: {0: bad, 1.0: good}", ["0", "1"], ["bad", "good"]),
        ([True, False], "verbalizer: {yes: good, no: bad}", ["false", "true"], ["bad", "good"]),
        (["yes", "no"], "verbalizer: {'yes': good, 'no': bad}", ["no", "yes"], ["bad", "good"]),
    ],
)
def test_numbers_and_booleans_are_names(
    tmp_path: Path, labels: list[object], lines: str, names: list[str], words: list[str]
) -> None:
    found, verbalizer = read(tmp_path, labels, lines)
    assert found == names and list(verbalizer.values()) == words


@pytest.mark.parametrize(
    ("labels", "lines", "message"),
    [
        (["yes", "no"], "labels: [yes, no]", BOOLEANS),
        (["yes", "no"], "verbalizer: {yes: good, no: bad}", BOOLEANS),
        ([0, 1], "verbalizer: {0: no, 1: yes}", BOOLEANS),
        ([0, 1], "labels: [0, 0.0]", "each once"),
        ([0, 1], "labels: ['', a]", "none empty"),
        ([0, 1], "labels: {0: neg, 1: pos}", "expected a list"),
        ([0, 1], "verbalizer: {0.5: bad}", "no label 0.5"),
    ],
)
def test_other_labels_are_refused(tmp_path: Path, labels: list[object], lines: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, labels, lines)
