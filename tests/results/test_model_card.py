"""The model card names what was substituted, and its code is Python that fits the artifact."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.commands import compose_config
from omegaconf import OmegaConf

from peftkit.results.model_card import describe_merge, model_card


def card(*overrides: str, artifact: str = "adapter", **more: Any) -> str:
    """Return the card of a run of these overrides, on a base from the Hub."""
    config = OmegaConf.to_container(compose_config(overrides), resolve=True)
    base = {"kind": "hub", "name": "a/base", "revision": "abc", "substituted_for": None, "pooling": "mean"}
    data = {"kind": "offline", "name": "miniglue", "revision": None, "substituted_for": "nyu-mll/glue"}
    costs = {"trainable_params": 5, "head_params": 2, "total_params": 10, "adapter_bytes": 40, "train_seconds": 3.0}
    result: dict[str, Any] = {
        "run": {"config": config, "overrides": [*overrides, "task.prompt=is it {text}?"]},
        "scores": {"accuracy": {"value": 0.5, "higher_is_better": True}},
        "costs": costs,
        "audit": {"sources": {"model": base, "data": data}, "rows": {"train": 24, "validation": 8}},
        "meta": {"device": "cpu", "precision": "fp32"},
    }
    return model_card({**result, **more}, artifact)


@pytest.mark.parametrize(
    ("overrides", "artifact", "lines"),
    [
        (["task=sst2"], "adapter", ["import peftkit", "AutoModelForSequenceClassification", 'revision="abc"']),
        (["task=sst2", "method=full"], "model", ["import peftkit", 'from_pretrained("model").eval()']),
        (["task=sst2", "model=gpt2", "method=prompt"], "adapter", ["import peftkit", '"text-classification"']),
        (["task=language_modeling"], "adapter", ["AutoModelForMaskedLM", "tokenizer.mask_token"]),
        (["task=language_modeling", "model=gpt2"], "adapter", ["AutoModelForCausalLM", '"text-generation"']),
        (["task=seq2seq", "model=t5", "vocab=x"], "adapter", ["AutoModelForSeq2SeqLM", "resize_token_embeddings"]),
        (["task=retrieval"], "adapter", ["AutoModel\n", "states.mean(dim=1)", 'SentenceTransformer("adapter")']),
        (["task=retrieval", "model=t5"], "adapter", ["T5EncoderModel"]),
        (["task=instructions", "model=gpt2"], "adapter", ["Name three rivers."]),
        (["task=sst2", "model=gpt2", "method=zero_shot"], "prompt", ["prompt/prompt.json", "AutoModelForCausalLM"]),
    ],
)
def test_the_loading_code_fits_kind_model_and_artifact(overrides: list[str], artifact: str, lines: list[str]) -> None:
    code = card(*overrides, artifact=artifact).partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")
    assert [line for line in lines if line not in code] == [], code
    assert ("mask_token" in code) == ("tokenizer.mask_token" in lines)


def test_a_card_shows_scores_substitutions_and_the_command() -> None:
    text = card("task=sst2")
    assert "| accuracy | 0.5000 |" in text and "Examples: train 24, validation 8." in text
    assert "> **Data: miniglue (offline) replaces nyu-mll/glue.** These scores are not those of nyu-mll/glue." in text
    assert "python -m peftkit task=sst2 'task.prompt=is it {text}?'" in text and "quantized" not in text


def test_a_merged_quantized_base_is_described_or_why_it_was_not_measured() -> None:
    merge = {"rows": 9, "dtype": "float32", "changed_predictions": 2, "max_difference": 0.123, "mean_difference": 0.01}
    text = "merged into the float32 base, 2 of 9 predictions change; scores change by 0.12 at most, 0.01 on average"
    assert describe_merge(merge) == text and f"quantized base; {text}." in card("task=sst2", merge=merge)
    assert describe_merge({"rows": 0, "reason": "no memory"}) == "changes by merging were not measured: no memory"
