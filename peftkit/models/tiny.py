"""Tiny untrained checkpoints of every family, for checks and tests."""

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
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from peftkit.models.offline import train_tokenizer


def tiny_checkpoints(root: Path, documents: Sequence[str]) -> dict[str, Path]:
    """Write a model of each family, with two layers and hidden size 64, and its tokenizer; return the folders."""
    torch.manual_seed(0)
    words, typeless_words = _word_tokenizer(documents), _word_tokenizer(documents, has_types=False)
    pieces, sentence_pieces = (train_tokenizer(kind, documents, 600) for kind in ("gpt2-mini", "t5-mini"))
    bert = {
        "vocab_size": len(words), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64,
    }  # fmt: skip
    checkpoints: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {
        "bert": (BertModel(BertConfig(**bert, max_position_embeddings=64)), words),
        "gpt2": (
            GPT2LMHeadModel(GPT2Config(vocab_size=len(pieces), n_embd=64, n_layer=2, n_head=2, n_positions=128)),
            pieces,
        ),
        "t5": (
            T5ForConditionalGeneration(
                T5Config(
                    vocab_size=len(sentence_pieces), d_model=64, d_kv=32, d_ff=64, num_layers=2, num_heads=2,
                    decoder_start_token_id=sentence_pieces.pad_token_id,
                )
            ),
            sentence_pieces,
        ),
        "distilbert": (
            DistilBertModel(
                DistilBertConfig(
                    vocab_size=len(words), dim=64, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64
                )
            ),
            typeless_words,
        ),
        "roberta": (
            RobertaModel(
                RobertaConfig(**bert, max_position_embeddings=66, type_vocab_size=1, pad_token_id=0),
                add_pooling_layer=False,
            ),
            typeless_words,
        ),
        "smollm2": (
            LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=len(pieces), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
                    num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
                    tie_word_embeddings=True, bos_token_id=pieces.eos_token_id, eos_token_id=pieces.eos_token_id,
                )
            ),
            pieces,
        ),
    }  # fmt: skip
    for name, parts in checkpoints.items():
        for part in parts:
            part.save_pretrained(str(root / name))
    return {name: root / name for name in checkpoints}


def _word_tokenizer(documents: Sequence[str], has_types: bool = True) -> PreTrainedTokenizerBase:
    words = {word.strip(".,").lower() for document in documents for word in document.split()}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", ",", *sorted(words)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"],
    )  # fmt: skip
