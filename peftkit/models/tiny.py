"""Tiny untrained checkpoints of every family, for checks and tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from peftkit.models.offline import train_tokenizer


def tiny_checkpoints(root: Path, documents: Sequence[str]) -> dict[str, Path]:
    """Write models of two layers, 64 wide, of each family, with tokenizers of the documents; return the folders."""
    torch.manual_seed(0)
    bert_tokenizer, typeless_tokenizer = _word_tokenizer(documents), _word_tokenizer(documents, has_types=False)
    bert = BertModel(
        BertConfig(
            vocab_size=len(bert_tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=64,
        )
    )  # fmt: skip
    gpt2_tokenizer = train_tokenizer("gpt2-mini", documents, 600)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=len(gpt2_tokenizer), n_embd=64, n_layer=2, n_head=2, n_positions=128))
    t5_tokenizer = train_tokenizer("t5-mini", documents, 600)
    t5 = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(t5_tokenizer), d_model=64, d_kv=32, d_ff=64, num_layers=2, num_heads=2,
            decoder_start_token_id=t5_tokenizer.pad_token_id,
        )
    )  # fmt: skip
    distilbert = DistilBertModel(
        DistilBertConfig(
            vocab_size=len(bert_tokenizer), dim=64, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64
        )
    )
    roberta = RobertaModel(
        RobertaConfig(
            vocab_size=len(bert_tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=66, type_vocab_size=1, pad_token_id=0,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    folders = {}
    for name, model, tokenizer in (
        ("bert", bert, bert_tokenizer),
        ("distilbert", distilbert, typeless_tokenizer),
        ("roberta", roberta, typeless_tokenizer),
        ("gpt2", gpt2, gpt2_tokenizer),
        ("t5", t5, t5_tokenizer),
    ):
        folders[name] = root / name
        model.save_pretrained(str(folders[name]))
        tokenizer.save_pretrained(str(folders[name]))
    return folders


def _word_tokenizer(documents: Sequence[str], has_types: bool = True) -> PreTrainedTokenizerBase:
    words = sorted({word.strip(".,").lower() for document in documents for word in document.split()})
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", ",", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"],
    )  # fmt: skip
