"""Downstream gain of continued pretraining: one run from the base, one from the adapted model."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from helpers import commands
from helpers.commands import check

from peftkit.config import UserError
from peftkit.leaderboard.language import language_cells
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.stats import board_entries, task_score

TEXT = "the city of the {} is {} and the people of the {} like the city"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    words = ["river", "forest", "market", "harbour", "valley"]
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(TEXT.format(a, b, c) for a in words for b in words for c in words))
    return file


def adapt(model: str, place: Path, corpus: Path, out: Path, *more: str) -> Path:
    (folder,) = commands.finetune(
        f"recipe=adapt_{model}", f"model.checkpoint={place}", "source=offline", f"out={out}", f"task.dataset={corpus}",
        "task.max_length=32", "train.per_device_train_batch_size=8", "train.max_steps=3", "train.disable_tqdm=true", *more,
    )  # fmt: skip
    return folder


def downstream(*overrides: str) -> Path:
    assert check(list(overrides)) == []
    begun: list[Path] = []
    commands.run(overrides, None, begun.append)
    before, after = begun
    assert before != after
    return before


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("model", "method"), [("bert", "full"), ("gpt2", "lora")])
def test_both_runs_are_alike_but_for_their_base_and_the_board_shows_them(
    model: str, method: str, tiny: Any, places: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "outputs"
    folder = adapt(model, places[model], corpus, out, f"method={method}")
    known = result_of(folder)
    overrides = tiny(
        model,
        f"model.checkpoint={places[model]}",
        "job=downstream",
        f"run={folder}",
        "task=mrpc",
        "method=ia3",
        f"out={out}",
    )
    ends = {}
    for seed in (0, 1):
        before = downstream(*overrides, f"seed={seed}")
        (after,) = [each for each in before.parents[2].glob(f"*/*/seed-{seed}-*") if each != before]
        configs = [result_of(each)["run"]["config"] for each in (before, after)]
        assert configs[0]["job"] == configs[1]["job"] == "finetune"
        assert {name for name in configs[0] if configs[0][name] != configs[1][name]} == {"model"}
        pooling = [result_of(each)["audit"]["sources"]["model"]["pooling"] for each in (before, after)]
        assert pooling[0] == pooling[1]
        ends[str(seed)] = {
            "before": task_score(result_of(before)["scores"]),
            "after": task_score(result_of(after)["scores"]),
        }
    now = result_of(folder)
    ((_, entry),) = now["language"].pop("downstream").items()
    assert entry.pop("seeds") == ends
    assert entry == {
        "task": "mrpc", "method": "ia3", "learning_rate": "0.03", "rows": 24,
        "fresh": ["bert.pooler.dense"] if model == "bert" else [],
    }  # fmt: skip
    assert now == known  # nothing else of the result has changed
    rows = board_entries(collect([folder]))
    (line,) = language_cells(rows, rows[0].board)
    first, second = (fmean(each[end] for each in ends.values()) for end in ("before", "after"))
    gain = f"{first:.3f} → {second:.3f}, {second - first:+.3f} ± "
    assert line["downstream"].startswith(f"mrpc, ia3 at 0.03, 24 examples: {gain}")


@pytest.mark.slow
def test_another_base_and_another_kind_of_run_are_refused(
    tiny: Any, places: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    folder = adapt("gpt2", places["gpt2"], corpus, tmp_path)
    overrides = tiny("bert", "job=downstream", f"run={folder}", "task=mrpc")
    with pytest.raises(UserError, match=r"use model=gpt2 model\.checkpoint="):
        commands.run(overrides)
    (other,) = commands.finetune(*tiny("bert", "task=mrpc", "method=ia3"))
    overrides = tiny("bert", "job=downstream", f"run={other}", "task=mrpc")
    with pytest.raises(UserError, match="trained mrpc, not a language model"):
        commands.run(overrides)


@pytest.mark.slow
def test_what_cannot_be_merged_is_refused_before_anything_trains(
    tiny: Any, places: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    folder = adapt("gpt2", places["gpt2"], corpus, tmp_path, "method=adapter")
    overrides = tiny("gpt2", "job=downstream", f"run={folder}", "task=mrpc")
    with pytest.raises(UserError, match="cannot be merged: bottleneck"):
        commands.run(overrides)
    assert not list(tmp_path.rglob("mrpc"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["job=downstream"], "job=downstream needs a run folder"),
        (
            ["job=downstream", "run=x", "task=language_modeling", "task.dataset=x"],
            "compares a task with and without language modeling",
        ),
        (["job=downstream", "run=x", "trial=true"], "trial=true does not work with job=downstream"),
        (["job=downstream", "run=x", "vocab=y"], "vocab= is not for job=downstream"),
    ],
)
def test_what_fits_no_run_is_refused_before_anything_loads(overrides: list[str], sentence: str) -> None:
    assert any(sentence in message for message in check([*overrides, "source=offline"]))
