"""Steering adds the difference of two classes' mean states to a layer; a strength of 0 is zero-shot prompting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import commands
from helpers.commands import check
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import peftkit
from peftkit.config import UserError
from peftkit.jobs.finetune import _new_context
from peftkit.pipeline.artifacts import load_bundle
from peftkit.results.run_result import RunResult

Overrides = Callable[..., list[str]]
TASK = ("task=sst2", "train.bf16=false")


def trained(*words: str) -> tuple[Path, dict[str, Any]]:
    (folder,) = commands.finetune(*words)
    return folder, json.loads((folder / "result.json").read_text())


def scores_of(folder: Path) -> np.ndarray:
    return np.stack(pq.read_table(folder / "predictions.parquet")["scores"].to_numpy())


def mean_difference(folder: Path, checkpoint: Path, layer: int) -> torch.Tensor:
    """Return the mean state of the second class less that of the first, by transformers, one example at a time."""
    run = RunResult.finished(folder)
    bundle, data = load_bundle(run), _new_context(run.config).dataset
    examples = data.splits["train"]
    is_t5 = run.config.model.family == "seq2seq"
    model = (AutoModelForSeq2SeqLM if is_t5 else AutoModelForCausalLM).from_pretrained(checkpoint).eval()
    states: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for label, example in zip(examples["label"], bundle.format.encode(examples).inputs, strict=True):
        inputs = {"input_ids": torch.tensor([example["input_ids"]])}
        more = {"decoder_input_ids": torch.tensor([[model.config.decoder_start_token_id]])} if is_t5 else {}
        with torch.no_grad():
            out = model(**inputs, **more, output_hidden_states=True)
        hidden = out.decoder_hidden_states if is_t5 else out.hidden_states
        states[label].append(hidden[layer + 1][0, -1])
    return torch.stack(states[1]).mean(dim=0) - torch.stack(states[0]).mean(dim=0)


@pytest.mark.parametrize("model", ["gpt2", "t5"])
def test_the_vector_is_the_difference_of_means_and_strength_0_changes_no_bit(
    tiny: Overrides, checkpoints: dict[str, Path], model: str
) -> None:
    plain, _ = trained(*tiny(model, *TASK, "method=zero_shot"))
    off, _ = trained(*tiny(model, *TASK, "method=steering", "method.config.strength=0"))
    np.testing.assert_array_equal(scores_of(plain), scores_of(off))
    assert not (off / "prompt" / "steering.safetensors").exists()
    # the states after the last layer of both are normalized in hidden_states, those of the first are not
    folder, result = trained(
        *tiny(model, *TASK, "method=steering", "method.config.strength=-3", "method.config.layer=0")
    )
    vector = load_file(folder / "prompt" / "steering.safetensors")["vector"]
    torch.testing.assert_close(vector, -3 * mean_difference(folder, checkpoints[model], 0), rtol=1e-4, atol=1e-5)
    record = result["audit"]["steering"]
    assert record["classes"] == ["negative", "positive"] and sum(record["examples"]) == 24
    assert record["layer"] == ("decoder.block.0" if model == "t5" else "transformer.h.0")
    assert record["vector_norm"] == pytest.approx(float(vector.norm()) / 3, rel=1e-5)
    assert np.abs(scores_of(folder) - scores_of(plain)).max() > 1e-3
    assert result["gates"]["reload_difference"] < 1e-4 and result["gates"]["padding_difference"] < 1e-4
    assert result["costs"]["trainable_params"] == 0 and result["costs"]["adapter_bytes"] > vector.nbytes


def test_the_logits_of_a_steered_last_layer_are_those_of_its_moved_states(
    tiny: Overrides, checkpoints: dict[str, Path]
) -> None:
    folder, _ = trained(*tiny("gpt2", *TASK, "method=steering", "method.config.layer=1"))
    vector = load_file(folder / "prompt" / "steering.safetensors")["vector"]
    base, (steered, _) = AutoModelForCausalLM.from_pretrained(checkpoints["gpt2"]).eval(), peftkit.load(folder)
    ids, states = torch.tensor([[5, 6, 7, 8]]), []
    base.transformer.ln_f.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
    with torch.no_grad():
        base(input_ids=ids)
        wanted = base.lm_head(torch.nn.functional.layer_norm(
            states[0] + vector, (64,), base.transformer.ln_f.weight, base.transformer.ln_f.bias
        ))  # fmt: skip
        torch.testing.assert_close(steered(input_ids=ids).logits, wanted, rtol=1e-5, atol=1e-5)
    text = str(pq.read_table(folder / "predictions.parquet")["sentence"][0])
    found = peftkit.predict(folder, [text])[0]
    np.testing.assert_allclose(found.scores, scores_of(folder)[0], atol=1e-5)
    (folder / "prompt" / "steering.safetensors").unlink()
    with pytest.raises(UserError, match=r"steering\.safetensors is missing"):
        peftkit.load(folder)


def test_a_search_chooses_the_strength_on_training_examples(tiny: Overrides) -> None:
    words = tiny("gpt2", *TASK, "method=steering", "search.samples=8", "search.lr_multipliers=[0.1,1]")
    _, result = trained(*words, "search.config.strength=[-1,0]", "search.config.shots=[0,2]", "search.config.r=[4,8]")
    trials, chosen = result["search"]["trials"], result["search"]["chosen_config"]
    assert [trial["config"] for trial in trials] == [
        {"strength": strength, "shots": shots} for strength in (-1, 0) for shots in (0, 2)
    ]
    best = max(trials, key=lambda trial: trial["score"])
    assert chosen == best["config"] and result["run"]["config"]["method"]["config"]["strength"] == chosen["strength"]
    assert result["audit"]["rows"] == {"train": 24, "validation": 24}
    _, result = trained(*tiny("gpt2", *TASK, "method=zero_shot", "search.lr_multipliers=[0.1,1]"))
    assert result["search"]["trials"] == []


def test_what_cannot_be_steered_is_refused(tiny: Overrides) -> None:
    for words, message in (
        (["model=bert", "task=sst2"], "an encoder generates no text"),
        (["model=gpt2", "task=stsb"], "numbers have no two groups of examples; use method=zero_shot"),
        (["model=t5", "task=seq2seq", "task.dataset=x.csv", "task.text=[a]", "task.label=b"], "task=seq2seq has none"),
        (["model=gpt2", "task=sst2", "task.labels=[a,b,c]"], "needs two classes, and task.labels has 3"),
        (["model=gpt2", "task=sst2", "method.config.strengh=1"], "strength"),
    ):
        assert any(message in each for each in check(["method=steering", "source=offline", *words])), words
    assert any(
        "task.labels has 3; use method=zero_shot" in each
        for each in check(["model=gpt2", "task=mnli", "method=steering"])
    )
    with pytest.raises(
        UserError, match=r"layer=9: the model has 2 layers, counted from 0; use method\.config\.layer=1"
    ):
        trained(*tiny("gpt2", *TASK, "method=steering", "method.config.layer=9"))
    with pytest.raises(UserError, match="samples=0"):
        trained(*tiny("gpt2", *TASK, "method=steering", "method.config.samples=0"))
