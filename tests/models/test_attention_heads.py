"""Attention heads: a sliced model gives the outputs of the whole one with the removed heads masked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from peftkit.config import UserError
from peftkit.models.attention_heads import attention_layers, masked_heads, remove_heads
from peftkit.models.classifiers import T5EncoderConfig, T5EncoderForSequenceClassification
from peftkit.models.heads import loading_class, mean_pooling_config

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
T5 = {
    "vocab_size": 50,
    "d_model": 32,
    "d_kv": 8,
    "num_layers": 3,
    "num_heads": 4,
    "d_ff": 48,
    "decoder_start_token_id": 0,
}
GROUPED = {**SIZES, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 6, "attention_bias": True}
MODELS = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**SIZES)),
    "mean": lambda: AutoModelForSequenceClassification.from_config(mean_pooling_config(BertConfig(**SIZES))),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SIZES)),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=50, dim=32, n_layers=3, n_heads=4, hidden_dim=48)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=3, n_head=4, n_positions=32)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5)),
    "t5_encoder": lambda: T5EncoderForSequenceClassification(T5EncoderConfig(**T5)),
}
TOKENS = torch.tensor([[5, 6, 7, 8, 9, 3], [9, 10, 11, 12, 3, 4]])


def made(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for weight in model.parameters():  # biases and norms start at 0 and 1
        torch.nn.init.normal_(weight, std=0.3)
    return model


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    more = {"decoder_input_ids": TOKENS} if model.config.is_encoder_decoder else {}
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    return model.eval()(input_ids=TOKENS, attention_mask=mask, **more).logits


def some_heads(model: Any) -> dict[str, list[int]]:
    """Return other heads of each layer, three of the last and none of the second."""
    layers = attention_layers(model)
    return {
        layer.name: [0, 1, 3] if layer is layers[-1] else [number % 4]
        for number, layer in enumerate(layers)
        if number != 1
    }


def masks_of(model: Any, removed: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    masks = {layer.name: torch.ones(layer.heads) for layer in attention_layers(model)}
    for name, heads in removed.items():
        masks[name][heads] = 0
    return masks


@pytest.mark.parametrize("name", MODELS)
def test_a_sliced_model_equals_a_masked_one_and_loads_from_disk(name: str, tmp_path: Path) -> None:
    model = made(name)
    whole, removed = logits(model), some_heads(model)
    size = sum(weight.numel() for weight in model.parameters())
    with masked_heads(attention_layers(model), masks_of(model, removed)):
        masked = logits(model)
    assert not torch.allclose(masked, whole, atol=1e-3)
    torch.testing.assert_close(logits(model), whole)
    remove_heads(model, removed)
    torch.testing.assert_close(logits(model), masked, atol=1e-5, rtol=1e-5)
    assert sum(weight.numel() for weight in model.parameters()) < size
    model.save_pretrained(tmp_path)
    auto = type("Auto", (), {"_model_mapping": {type(model.config): type(model)}})
    read = loading_class(auto, type(model.config).from_pretrained(tmp_path)).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(read), logits(model), atol=0, rtol=0)
    assert type(read).__name__ == type(model).__name__
    with pytest.raises(RuntimeError, match=r"size mismatch|mismatched"):  # plain transformers
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_heads_are_removed_one_time_after_another(name: str, tmp_path: Path) -> None:
    once, twice = made(name), made(name)
    first = attention_layers(once)[0].name
    remove_heads(once, {first: [0, 2, 3]})
    remove_heads(twice, {first: [2]})
    remove_heads(twice, {first: [0, 2]})  # of those that are left
    assert twice.config.pruned_heads == once.config.pruned_heads == {first: [0, 2, 3]}
    torch.testing.assert_close(logits(twice), logits(once), atol=0, rtol=0)
    with pytest.raises(ValueError, match="no head left"):
        remove_heads(once, {first: [0]})


def test_pruned_models_generate_with_a_cache() -> None:
    for name in ("gpt2", "llama", "t5"):
        model = made(name)
        remove_heads(model, some_heads(model))
        settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        outputs = [model.generate(TOKENS, use_cache=cached, **settings) for cached in (True, False)]
        assert outputs[0].tolist() == outputs[1].tolist()


def test_a_family_without_names_is_refused() -> None:
    model = made("bert")
    model.config.model_type = "albert"
    with pytest.raises(UserError, match="attention heads of albert are not known; use model=bert"):
        attention_layers(model)
    assert AutoModelForSeq2SeqLM is loading_class(AutoModelForSeq2SeqLM, model.config)
