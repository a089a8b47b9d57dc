"""Generation settings of a run: in training, prediction and evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from helpers import commands
from helpers.conversations import instruction_run

from peftkit import api
from peftkit.pipeline.artifacts import load_run

TEXT = "Name a great film."


@pytest.fixture(scope="module")
def run(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings")
    return instruction_run(folder, checkpoints["smollm2"], "task.generation.num_beams=2")


def plain(run: Path, **settings: Any) -> str:
    """Return the answer of plain transformers with the chat template."""
    model, tokenizer = load_run(run)
    turns = [{"role": "user", "content": TEXT}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        out = model.generate(**ids, do_sample=False, pad_token_id=tokenizer.pad_token_id, **settings)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_predictions_take_the_settings_of_the_run_and_those_over_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert api.predict(run, TEXT).prediction == plain(run, num_beams=2, max_new_tokens=16)
    given = {"num_beams": None, "repetition_penalty": 1.5, "max_new_tokens": 5}
    found = api.predict(run, TEXT, **{f"task.generation.{name}": value for name, value in given.items()})
    assert found.prediction == plain(run, repetition_penalty=1.5, max_new_tokens=5)
    commands.predict(run, TEXT, "task.generation={num_beams: 1, max_new_tokens: 5}")
    assert json.loads(capsys.readouterr().out)["prediction"] == plain(run, max_new_tokens=5)


def test_sampled_predictions_depend_on_the_seed_and_not_on_the_batch(run: Path) -> None:
    settings = {"task.generation": {"do_sample": True, "num_beams": 1, "temperature": 3.0}}
    size = "train.per_device_eval_batch_size"
    one, many, other = (
        [each.prediction for each in api.predict(run, [TEXT] * 3, **settings, **more)]
        for more in ({size: 1}, {size: 3}, {"seed": 1})
    )
    assert one == many != other and len({*one}) == 3


def test_an_evaluation_with_other_settings_has_files_of_its_own(run: Path) -> None:
    commands.evaluate(run)
    commands.evaluate(run, "task.generation.num_beams=3", "task.generation.length_penalty=2.0")
    commands.evaluate(run, "task.generation.num_beams=null")
    names = {file.stem.removeprefix("predictions-instructions") for file in run.glob("predictions-*.parquet")}
    assert names == {"", "-length_penalty-2.0-num_beams-3", "-greedy"}
    found = {
        name: pq.read_table(run / f"predictions{name}.parquet")["prediction"].to_pylist()
        for name in ("", *(f"-instructions{name}" for name in names))
    }
    assert found[""] == found["-instructions"]
    record = json.loads((run / "evaluation-instructions-greedy.json").read_text())
    assert record["task"]["generation"] is None


@pytest.mark.parametrize("method", ["prefix", "prompt"])
@pytest.mark.slow
def test_soft_prompts_work_with_beams(checkpoints: dict[str, Path], tmp_path: Path, method: str) -> None:
    folder = instruction_run(tmp_path, checkpoints["gpt2"], f"method={method}")
    beams: Callable[..., Any] = lambda texts: [  # noqa: E731
        each.prediction for each in api.predict(folder, texts, **{"task.generation": {"num_beams": 3}})
    ]
    texts = [TEXT, "Name a long film, and an actor who is in it."]
    assert beams(texts) == [beams([text])[0] for text in texts]
