"""Pairs encoded apart: the logits are those of the two texts by themselves, whatever the batch, and survive a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import commands
from helpers.commands import check
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from peftkit.models.heads import sequence_config
from peftkit.models.pairs import split_pairs
from peftkit.pipeline.artifacts import load_run
from peftkit.results.run_result import RunResult

Overrides = Callable[..., list[str]]
PAIRS = [("the actor praised the film .", "no"), ("a", "the critic saw the film again and again ."), ("so", "so")]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_logits_are_those_of_texts_that_are_encoded_by_themselves(
    checkpoints: dict[str, Path], pooling: str
) -> None:
    folder = checkpoints["bert"]
    tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    config = sequence_config(config, pooling, "apart")
    model = AutoModelForSequenceClassification.from_pretrained(folder, config=config).eval()
    encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    head = model.classifier

    def vector(text: str) -> torch.Tensor:
        states = encoder(**tokenizer(text, return_tensors="pt"))[0][0]
        return states.mean(dim=0) if pooling == "mean" else states[0]

    with torch.no_grad():
        expected = []
        for first, second in PAIRS:
            u, v = vector(first), vector(second)
            expected.append(head.weight @ torch.cat([u, v, (u - v).abs(), u * v]) + head.bias)
        batch = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")
        together = model(**batch).logits
        padded = {name: torch.nn.functional.pad(each, (0, 5)) for name, each in batch.items()}
        torch.testing.assert_close(together, torch.stack(expected), atol=1e-5, rtol=0)
        torch.testing.assert_close(model(**padded).logits, together, atol=1e-6, rtol=0)
        with pytest.raises(ValueError, match="this model reads two texts"):
            model(**tokenizer("one text", return_tensors="pt"))


def test_a_pair_is_split_into_texts_as_they_are_tokenized_alone(checkpoints: dict[str, Path]) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoints["bert"])
    batch = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")
    ids, mask = split_pairs(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    found = [row[chosen.bool()].tolist() for row, chosen in zip(ids, mask, strict=True)]
    assert found == [tokenizer(pair[number])["input_ids"] for number in (0, 1) for pair in PAIRS]
    assert ids.shape[1] == max(map(len, found))


@pytest.mark.parametrize(
    ("task", "method"),
    [
        ("mrpc", "lora"),
        ("stsb", "full"),
        *(
            pytest.param("mrpc", each, marks=pytest.mark.slow)
            for each in ("prefix", "adapter", "features", "linear_probe", "qlora", "ia3")
        ),
    ],
)
def test_a_run_that_encodes_pairs_apart_passes_its_gates_and_loads(tiny: Overrides, task: str, method: str) -> None:
    (folder,) = commands.finetune(
        *tiny("bert", f"task={task}", f"method={method}", "model.pairs=apart", "train.bf16=false")
    )
    run = RunResult.finished(folder)
    assert run.record["run"]["config"]["model"]["pairs"] == "apart"
    model, tokenizer = load_run(folder)
    assert model.config.model_type == "pairs_apart_bert"
    assert "\nimport peftkit\n" in (folder / "README.md").read_text(encoding="utf-8")
    table = run.predictions()
    with torch.no_grad():
        first, second = table["sentence1"][0], table["sentence2"][0]
        logits = model(**tokenizer(first, second, return_tensors="pt")).logits[0].float().numpy()
    np.testing.assert_allclose(logits, table["scores"][0], atol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=sst2", "model=minilm"], "model.pairs=apart encodes two texts, and task=sst2 has 1"),
        (["task=mrpc", "model=gpt2"], "model.pairs=apart is for a BERT, and model=gpt2 is none; use model=minilm"),
        (["task=mrpc", "model=t5_encoder"], "model.pairs=apart is for a BERT, and model=t5_encoder is none"),
        (["task=squad", "model=bert"], "is for classification and regression, and task=squad is neither"),
        (["task=mrpc", "model=minilm", "method=bag_of_words"], "does not encode a text by itself"),
    ],
)
def test_what_cannot_be_encoded_apart_is_refused(overrides: list[str], message: str) -> None:
    assert message in " ".join(check(["model.pairs=apart", *overrides]))


@pytest.mark.parametrize("model", ["distilbert", "roberta"])
def test_a_model_without_token_types_is_refused(tiny: Overrides, model: str) -> None:
    with pytest.raises(Exception, match=f"needs BERT's token types, which mark the second text, and {model} is none"):
        commands.finetune(*tiny(model, "task=mrpc", "model.pairs=apart"))
