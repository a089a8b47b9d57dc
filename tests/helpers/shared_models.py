"""Tiny models that both libraries build."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

BERT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
MODELS = {
    "bert": lambda: BertModel(BertConfig(**BERT)),
    "roberta": lambda: RobertaModel(RobertaConfig(**BERT)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2, hidden_dim=48)
    ),
    "gpt2": lambda: GPT2Model(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=32)),
    "t5": lambda: T5Model(T5Config(vocab_size=50, d_model=32, d_kv=16, num_layers=2, num_heads=2, d_ff=48)),
    "llama": lambda: LlamaModel(LlamaConfig(**BERT)),
}
TOKENS = torch.tensor([[5, 6, 7, 8, 9], [9, 10, 11, 12, 3]])


def hidden_states(model: Any, name: str) -> torch.Tensor:
    """Return the last hidden states (2, 5, 32) of a fixed batch; for T5 the decoder's."""
    inputs = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}
    if name == "t5":
        inputs["decoder_input_ids"] = TOKENS
    with torch.no_grad():
        return model(**inputs).last_hidden_state
