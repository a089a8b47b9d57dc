"""Tiny models of every family and head with soft prompts, their batches and outputs."""

from __future__ import annotations

from typing import Any

import torch
from peft import get_peft_model
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BigBirdConfig,
    BigBirdForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LongformerConfig,
    LongformerForSequenceClassification,
    MT5Config,
    MT5ForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    RoFormerConfig,
    RoFormerForSequenceClassification,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
    T5ForTokenClassification,
)

from peftkit.methods.soft_prompt import SoftPromptConfig

BERT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
GPT2 = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40, "pad_token_id": 0}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 1}
T5 = {"vocab_size": 60, "d_model": 32, "d_kv": 16, "num_layers": 2, "num_heads": 2, "d_ff": 48}
T5 |= {"decoder_start_token_id": 0, "eos_token_id": 1}
BART = {
    "vocab_size": 60, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 40,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 1, "forced_eos_token_id": None,
    "scale_embedding": True,
}  # fmt: skip
MODELS: dict[str, tuple[Any, Any, str | None]] = {
    "bert-cls": (BertForSequenceClassification, BertConfig(**BERT), "SEQ_CLS"),
    "bert-token": (BertForTokenClassification, BertConfig(**BERT, num_labels=3), "TOKEN_CLS"),
    "bert-qa": (BertForQuestionAnswering, BertConfig(**BERT), "QUESTION_ANS"),
    "bert-mlm": (BertForMaskedLM, BertConfig(**BERT), None),
    "roberta-cls": (RobertaForSequenceClassification, RobertaConfig(**BERT, pad_token_id=0), "SEQ_CLS"),
    "distilbert-cls": (
        DistilBertForSequenceClassification,
        DistilBertConfig(vocab_size=60, dim=32, n_layers=2, n_heads=2, hidden_dim=48),
        "SEQ_CLS",
    ),
    "gpt2-cls": (GPT2ForSequenceClassification, GPT2Config(**GPT2), "SEQ_CLS"),
    "gpt2-token": (GPT2ForTokenClassification, GPT2Config(**GPT2, num_labels=3), "TOKEN_CLS"),
    "gpt2-qa": (GPT2ForQuestionAnswering, GPT2Config(**GPT2), "QUESTION_ANS"),
    "gpt2-lm": (GPT2LMHeadModel, GPT2Config(**GPT2), "CAUSAL_LM"),
    "llama-lm": (LlamaForCausalLM, LlamaConfig(**BERT, pad_token_id=0), "CAUSAL_LM"),
    "t5-lm": (T5ForConditionalGeneration, T5Config(**T5), "SEQ_2_SEQ_LM"),
    "t5-cls": (T5ForSequenceClassification, T5Config(**T5), "SEQ_CLS"),
    "t5-token": (T5ForTokenClassification, T5Config(**T5, num_labels=3), "TOKEN_CLS"),
    "t5-encoder": (T5EncoderModel, T5Config(**T5), None),
    "mt5-lm": (MT5ForConditionalGeneration, MT5Config(**T5), "SEQ_2_SEQ_LM"),
    "bart-lm": (BartForConditionalGeneration, BartConfig(**BART), "SEQ_2_SEQ_LM"),
    "opt-lm": (
        OPTForCausalLM,
        OPTConfig(**BERT, ffn_dim=48, word_embed_proj_dim=32, pad_token_id=0, bos_token_id=2, eos_token_id=1),
        "CAUSAL_LM",
    ),
    "roformer-cls": (RoFormerForSequenceClassification, RoFormerConfig(**BERT), "SEQ_CLS"),
    "longformer-cls": (
        LongformerForSequenceClassification,
        LongformerConfig(**BERT, pad_token_id=0, attention_window=[4, 4]),
        "SEQ_CLS",
    ),
    "bigbird-cls": (BigBirdForSequenceClassification, BigBirdConfig(**BERT, attention_type="original_full"), "SEQ_CLS"),
}
KINDS: dict[str, dict[str, Any]] = {
    "prompt": {"kind": "prompt"},
    "p_tuning": {"kind": "p_tuning", "encoder": "lstm"},
    "prefix": {"kind": "prefix"},
    "prefix_mlp": {"kind": "prefix", "encoder": "mlp", "encoder_hidden_size": 8},
}
# families without a record, for which peftkit knows no places of adapters
WITHOUT_RECORD = ("mt5-lm", "bart-lm", "opt-lm", "roformer-cls", "longformer-cls", "bigbird-cls")
# their attention is of another kind: prefixes are refused
NO_PREFIX = ("roformer-cls", "longformer-cls", "bigbird-cls")
LONG, SHORT = [5, 6, 7, 8, 9, 1], [10, 11, 12, 1]


def build(name: str) -> Any:
    model_class, config, _ = MODELS[name]
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def wrapped(name: str, kind: str, **more: Any) -> Any:
    model = build(name)
    torch.manual_seed(1)
    config = SoftPromptConfig(task_type=MODELS[name][2], num_virtual_tokens=3, **KINDS[kind] | more)
    return get_peft_model(model, config).eval()


def batch(name: str, rows: list[list[int]], side: str = "right") -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    pads = [[0] * (width - len(row)) for row in rows]
    ids = [pad + row if side == "left" else row + pad for row, pad in zip(rows, pads, strict=True)]
    seen = [[int(token > 0) for token in row] for row in ids]
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(seen)}
    if name in ("t5-lm", "mt5-lm", "bart-lm"):
        inputs["labels"] = torch.tensor([[3, 4, 1]] * len(rows))
    return inputs


def answer(model: Any, inputs: dict[str, torch.Tensor], **more: Any) -> torch.Tensor:
    """Return the logits of the head (rows, tokens or labels, ...)."""
    out = model(**inputs, **more)
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], dim=-1)
    return out.logits if "logits" in out else out.last_hidden_state
