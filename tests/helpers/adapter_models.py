"""Tiny models of every family, and a batch for each."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

WIDTH = 32


def bert() -> Any:
    config = BertConfig(
        vocab_size=50, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    )
    return BertForSequenceClassification(config)


def roberta() -> Any:
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=50, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
        )
    )


def distilbert() -> Any:
    return DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=50, dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=48)
    )


def gpt2() -> Any:
    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=50, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=32, pad_token_id=0)
    )


def llama() -> Any:
    config = LlamaConfig(
        vocab_size=50, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    )
    config.pad_token_id = 0
    return LlamaForSequenceClassification(config)


def t5() -> Any:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=WIDTH, d_kv=16, num_layers=2, num_heads=2, d_ff=48, decoder_start_token_id=0)
    )


MODELS = {"bert": bert, "roberta": roberta, "distilbert": distilbert, "gpt2": gpt2, "llama": llama, "t5": t5}


def inputs(name: str) -> dict[str, torch.Tensor]:
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])}
    batch["labels"] = torch.tensor([[3, 4], [5, 6]]) if name == "t5" else torch.tensor([0, 1])
    return batch
