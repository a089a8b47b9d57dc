"""Frozen weights held in the compute precision: the same bits, and the same weights afterwards."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from peft import FourierFTConfig, IA3Config, LoHaConfig, LoraConfig, OFTConfig, PrefixTuningConfig, VeraConfig
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from peftkit.methods import apply_method
from peftkit.methods.adapter import BottleneckConfig
from peftkit.models.frozen_weights import frozen_in

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
BERT = (BertForSequenceClassification, BertConfig(**SIZES))
GPT2 = (GPT2ForSequenceClassification, GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, pad_token_id=0))
T5 = (
    T5ForConditionalGeneration,
    T5Config(vocab_size=50, d_model=32, d_ff=48, d_kv=16, num_heads=2, num_layers=2, decoder_start_token_id=0),
)
LINEAR = {"target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("model", "config", "held"),
    [
        (BERT, LoraConfig(task_type="SEQ_CLS", **LINEAR), 14),  # with the pooler and the head's original
        (BERT, LoraConfig(task_type="SEQ_CLS", use_dora=True, **LINEAR), 1),
        (BERT, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]), 14),
        (GPT2, LoraConfig(task_type="SEQ_CLS", fan_in_fan_out=True, target_modules=["c_attn"]), 9),
        (T5, LoraConfig(task_type="SEQ_2_SEQ_LM", **LINEAR), 32),  # without the tied head
        (BERT, IA3Config(task_type="SEQ_CLS"), 14),
        (BERT, BottleneckConfig(task_type="SEQ_CLS"), 14),
        (BERT, PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2), 14),
        (BERT, LoHaConfig(task_type="SEQ_CLS", target_modules=["query"]), 12),
        (BERT, OFTConfig(task_type="SEQ_CLS", target_modules=["query"], oft_block_size=8), 12),
        (BERT, VeraConfig(task_type="SEQ_CLS", target_modules=["query"], r=4), 12),
        (BERT, FourierFTConfig(task_type="SEQ_CLS", target_modules=["query"], n_frequency=4), 12),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "peft_type") else None,
)
def test_a_step_has_the_same_bits(model: Any, config: Any, held: int) -> None:
    torch.manual_seed(0)
    tuned, found = apply_method(model[0](model[1]), config).train(), []
    before = dict(tuned.named_parameters())
    kept = {name: weight.clone() for name, weight in before.items()}
    labels = torch.randint(3, 50, (2, 4)) if model is T5 else torch.tensor([0, 1])
    for block in (nullcontext, partial(frozen_in, tuned, torch.bfloat16)):
        torch.manual_seed(0)
        tuned.zero_grad()
        with block(), torch.autocast("cpu", torch.bfloat16):
            cast = [name for name, weight in tuned.named_parameters() if weight.dtype == torch.bfloat16]
            loss = tuned(input_ids=torch.arange(5, 15).view(2, 5), labels=labels).loss
            loss.backward()
        found.append([loss, *(weight.grad for weight in tuned.parameters() if weight.grad is not None)])
    assert len(cast) == held
    assert len(found[0]) > 1
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))
    for name, weight in tuned.named_parameters():
        assert weight is before[name]
        assert torch.equal(weight, kept[name])


def test_tied_trained_and_other_weights_are_left() -> None:
    model = BertForMaskedLM(BertConfig(**SIZES))
    model.bert.encoder.layer[0].requires_grad_(False)
    model.bert.encoder.layer[0].output.dense.double()
    model.bert.embeddings.requires_grad_(False)
    with frozen_in(model, torch.bfloat16):
        cast = {name for name, weight in model.named_parameters() if weight.dtype == torch.bfloat16}
    assert cast == {
        *(f"bert.encoder.layer.0.attention.self.{name}.weight" for name in ("query", "key", "value")),
        "bert.encoder.layer.0.attention.output.dense.weight",
        "bert.encoder.layer.0.intermediate.dense.weight",
    }
