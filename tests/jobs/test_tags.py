"""Tags of tasks are tokens in front of their inputs, whose embedding rows train with the method, and no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import commands
from helpers.commands import check
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardRun
from peftkit.methods import embedding_rows
from peftkit.models.tokenizer_extension import with_tag
from peftkit.pipeline.artifacts import load_bundle
from peftkit.results.run_result import RunResult

Overrides = Callable[..., list[str]]
TAGS = ["<task_sst2>", "<task_mrpc>"]
TEXTS = ("the film .", "a critic praised it")


@pytest.mark.parametrize("model", ["bert", "roberta", "gpt2", "t5"])
def test_a_tag_precedes_each_input_also_after_loading(checkpoints: dict[str, Path], tmp_path: Path, model: str) -> None:
    plain: Any = AutoTokenizer.from_pretrained(checkpoints[model])
    with_tag(plain, TAGS, TAGS[1]).save_pretrained(tmp_path)
    tagged: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert tagged.convert_tokens_to_ids(TAGS) == [len(plain), len(plain) + 1]
    place = 1 if plain(TEXTS[0])["input_ids"][0] == plain.cls_token_id is not None else 0
    for texts in (TEXTS[:1], TEXTS):
        before, after = plain(*texts), tagged(*texts)
        expected = [*before["input_ids"][:place], len(plain) + 1, *before["input_ids"][place:]]
        assert after["input_ids"] == expected
        if "token_type_ids" in before:
            assert after["token_type_ids"] == [0, *before["token_type_ids"]]
        short = tagged(*texts, truncation=True, max_length=6)["input_ids"]
        assert len(short) == min(6, len(expected)) and short[place] == len(plain) + 1
        assert tagged.decode(after["input_ids"], skip_special_tokens=True) == plain.decode(
            before["input_ids"], skip_special_tokens=True
        )
    words = tagged(TEXTS[1].split(), is_split_into_words=True)
    assert words.word_ids()[place] is None


def train(overrides: list[str]) -> tuple[Path, dict[str, Any]]:
    (folder,) = commands.finetune(*overrides)
    return folder, json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("bert", []),
        pytest.param("gpt2", [], marks=pytest.mark.slow),
        pytest.param("roberta", ["method=adapter"], marks=pytest.mark.slow),
        pytest.param("bert", ["multitask.adapter=per_task", "multitask.batches=mixed"], marks=pytest.mark.slow),
        pytest.param("bert", ["multitask.adapter=shared_and_per_task"], marks=pytest.mark.slow),
        pytest.param("t5_encoder", [], marks=pytest.mark.slow),
    ],
)
def test_only_the_rows_of_tags_and_the_weights_of_the_method_change(
    tiny: Overrides, checkpoints: dict[str, Path], model: str, more: list[str]
) -> None:
    name = "t5" if model == "t5_encoder" else model
    overrides = [
        *tiny(name, "train.bf16=false", "train.learning_rate=0.01", *more), f"model={model}", "tasks=[sst2,mrpc]",
        "multitask.tags=true",
    ]  # fmt: skip
    folder, result = train(overrides)
    rows = AutoModel.from_pretrained(checkpoints[name]).get_input_embeddings().weight.detach()
    shares_rows = not any("per_task" in each for each in more)
    for number, task in enumerate(("sst2", "mrpc")):
        bundle = load_bundle(RunResult.finished(folder / task))
        found = embedding_rows(bundle.model)
        assert torch.equal(found[: len(rows)], rows) and len(found) == len(rows) + len(TAGS)
        tag, start = bundle.tokenizer.convert_tokens_to_ids(TAGS[number]), rows.mean(dim=0)
        assert tag in bundle.tokenizer("a film")["input_ids"]
        assert not torch.allclose(found[tag], start, atol=1e-4)
        other = found[len(rows) + 1 - number]  # that of the other task, which is in no input of this model
        assert torch.allclose(other, start, atol=1e-6) != shares_rows
        weights = load_file(folder / task / "adapter" / "adapter_model.safetensors")
        (own,) = [weight for key, weight in weights.items() if "trainable_tokens" in key]
        assert own.shape == (len(TAGS), rows.shape[1])
    (plan,) = commands.plan(*overrides)
    assert plan.parameters.trainable == result["costs"]["trainable_params"]


@pytest.mark.slow
def test_full_fine_tuning_with_tags_is_loaded_with_its_tokenizer(tiny: Overrides) -> None:
    folder, _ = train(tiny("bert", "tasks=[sst2,mrpc]", "method=full", "multitask.tags=true", "train.bf16=false"))
    bundle = load_bundle(RunResult.finished(folder / "mrpc"))
    assert bundle.tokenizer.convert_ids_to_tokens(bundle.tokenizer(*TEXTS)["input_ids"])[1] == TAGS[1]


def test_a_task_with_a_tag_predicts_and_stands_on_the_board(tiny: Overrides, tmp_path: Path) -> None:
    folder, _ = train(tiny("bert", "tasks=[sst2,mrpc]", "multitask.tags=true", "train.bf16=false"))
    run = RunResult.finished(folder / "mrpc")
    bundle, table = load_bundle(run), run.predictions()
    with torch.no_grad():
        inputs = bundle.tokenizer(table["sentence1"][0], table["sentence2"][0], return_tensors="pt")
        np.testing.assert_allclose(bundle.model(**inputs).logits[0].numpy(), table["scores"][0], atol=1e-5)
    found = [each for each in collect([tmp_path / "outputs"]) if isinstance(each, BoardRun) and each.task == "mrpc"]
    assert [each.settings["multitask.tags"] for each in found] == ["true"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=t5"], "multitask.tags: model=t5 names the task in its text; drop it"),
        (
            ["model.pairs=apart"],
            "multitask.tags would mark the first text of model.pairs=apart only; drop it, or drop model.pairs",
        ),
        (["method=ia3"], "method=ia3 cannot train the rows of multitask.tags; use method=lora"),
    ],
)
def test_tags_that_nothing_reads_are_refused(overrides: list[str], message: str) -> None:
    found = check(["tasks=[rte,mrpc]", "multitask.tags=true", *overrides])
    assert message in " ".join(found)


def test_tags_are_for_several_tasks() -> None:
    assert check(["task=sst2", "multitask.tags=true"]) == ["multitask.tags is for tasks=[...]; drop it"]
