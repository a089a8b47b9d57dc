"""Latency per example; and continued pretraining: bits per byte decrease, an interrupted run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import commands
from helpers.commands import check
from helpers.interruption import broken_off
from helpers.two_processes import torchrun
from transformers import AutoModelForCausalLM, AutoTokenizer

import peftkit
from peftkit.leaderboard.language import language_cells
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.stats import board_entries
from peftkit.methods import embedding_rows

Overrides = Callable[..., list[str]]
TEXT = "the zyxwort of the {} is {} and the people of the city like the zyxwort of the {}"
METHODS = {"bert": "full", "gpt2": "lora", "t5": "adapter"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    words = ["film", "city", "story", "people"]
    lines = [TEXT.format(words[n % 4], "good" if n % 3 else "bad", words[n % 3]) for n in range(120)]
    file.write_text("\n".join(lines) + "\n")
    return file


def overrides_of(model: str, folder: Path, corpus: Path, out: Path, *more: str) -> list[str]:
    return [
        f"recipe=adapt_{model}", f"model.checkpoint={folder}", f"task.dataset={corpus}", "source=offline", f"out={out}",
        "task.max_length=32", "train.per_device_train_batch_size=8", "train.bf16=false", "train.disable_tqdm=true",
        "train.learning_rate=3e-3", "train.num_train_epochs=2", *more,
    ]  # fmt: skip


def adapted(*overrides: str) -> tuple[Path, dict[str, Any]]:
    (folder,) = commands.finetune(*overrides)
    return folder, json.loads((folder / "result.json").read_text())


def extended(model: str, folder: Path, out: Path) -> Path:
    terms = out / "terms.txt"
    out.mkdir(parents=True, exist_ok=True)
    terms.write_text("zyxwort\n")
    overrides = [
        "job=extend", f"model={model}", f"model.checkpoint={folder}", "source=offline", f"out={out}",
        f"extend.terms={terms}",
    ]  # fmt: skip
    assert check(overrides) == []
    made = commands.run(overrides)
    assert made is not None
    return made


@pytest.mark.parametrize(
    "model", [pytest.param("bert", marks=pytest.mark.slow), "gpt2", pytest.param("t5", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_bits_per_byte_decrease_and_are_on_the_board(
    model: str, places: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    vocab = extended(model, places[model], tmp_path)
    overrides = overrides_of(model, places[model], corpus, tmp_path, f"method={METHODS[model]}", f"vocab={vocab}")
    folder, result = adapted(*overrides)
    language = result["language"]
    assert language["held_out"]["after"] < language["held_out"]["before"] - 0.1
    assert language["held_out"]["after"] == result["scores"]["bits_per_byte"]["value"]
    assert language["pieces"]["after"]["tokens"] <= language["pieces"]["before"]["tokens"]
    assert [entry["term"] for entry in language["neighbours"]] == ["zyxwort"]
    assert len(language["neighbours"][0]["neighbours"]) == 5
    rows = board_entries(collect([tmp_path]))
    (line,) = language_cells(rows, rows[0].board)
    assert line["bits per byte"].endswith(f"→ {language['held_out']['after']:.3f}")
    model_, tokenizer = peftkit.load(folder)
    number = tokenizer.convert_tokens_to_ids(tokenizer.tokenize("zyxwort")[0])
    assert torch.isfinite(embedding_rows(model_)[number]).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "adapter", "bitfit"])
def test_a_head_that_the_checkpoint_lacks_is_trained_and_saved(
    method: str, places: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    _, result = adapted(*overrides_of("bert", places["bert"], corpus, tmp_path, f"method={method}"))
    assert result["costs"]["head_params"] >= 64 * 64
    assert result["language"]["held_out"]["after"] < result["language"]["held_out"]["before"] - 0.1


@pytest.mark.slow
def test_new_rows_of_a_tied_head_keep_its_bias(places: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    vocab = extended("bert", places["bert_head"], tmp_path)
    overrides = overrides_of(
        "bert", places["bert_head"], corpus, tmp_path, "method=lora", f"vocab={vocab}", "train.max_steps=3"
    )
    folder, _ = adapted(*overrides)
    model, tokenizer = peftkit.load(folder)
    batch = tokenizer(["the zyxwort of the city"], return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(**batch).logits, expected, atol=1e-5, rtol=1e-5)
        off = merged.cls.predictions.decoder.bias.abs().max()
    assert off > 0.5


@pytest.mark.slow
def test_a_run_broken_off_in_an_epoch_ends_as_an_unbroken_one(
    places: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    overrides = overrides_of("bert", places["bert_head"], corpus, tmp_path, "method=full", "train.save_steps=5")
    _, whole = adapted(*overrides)
    with broken_off(step=22):  # of 28, in the second epoch, after the checkpoint of step 20
        commands.finetune(*overrides, "force=true")
    _, resumed = adapted(*overrides)
    assert resumed["costs"]["steps"] == whole["costs"]["steps"] == 28
    assert resumed["scores"]["bits_per_byte"]["value"] == pytest.approx(
        whole["scores"]["bits_per_byte"]["value"], rel=1e-5
    )


@pytest.mark.slow
def test_a_base_in_four_bits_keeps_its_masked_head_whole(places: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    _, result = adapted(*overrides_of("bert", places["bert_head"], corpus, tmp_path, "method=qlora"))
    assert result["language"]["held_out"]["after"] < result["language"]["held_out"]["before"] - 0.1


@pytest.mark.slow
def test_two_processes_train_together_after_measuring_the_text(
    places: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    ends = []
    still: Any = AutoModelForCausalLM.from_pretrained(
        str(places["gpt2"]), attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0
    )
    for part in (still, AutoTokenizer.from_pretrained(str(places["gpt2"]))):
        part.save_pretrained(str(tmp_path / "still"))  # processes drop out unlike cells
    for processes, batch in ((1, 8), (2, 4)):
        out = tmp_path / str(processes)
        overrides = overrides_of(
            "gpt2", tmp_path / "still", corpus, out, "method=full", f"train.per_device_train_batch_size={batch}",
            "train.train_sampling_strategy=sequential", "train.max_steps=20",
        )  # fmt: skip
        done = torchrun("-m", "peftkit", *overrides, cwd=tmp_path, processes=processes)
        assert done.returncode == 0, done.stderr
        (file,) = out.rglob("result.json")
        result = json.loads(file.read_text())
        ends.append((result["scores"]["bits_per_byte"]["value"], result["costs"]["steps"]))
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


@pytest.mark.parametrize(
    ("method", "merges"), [("lora", True), ("adapter", False), pytest.param("full", False, marks=pytest.mark.slow)]
)
def test_latency_is_there_merged_where_there_is_something_to_merge(tiny: Overrides, method: str, merges: bool) -> None:
    (folder,) = commands.finetune(*tiny("bert", f"method={method}"))
    costs = json.loads((folder / "result.json").read_text())["costs"]
    assert costs["latency_ms"] > 0
    assert (costs["merged_latency_ms"] or 0) > 0 if merges else costs["merged_latency_ms"] is None
