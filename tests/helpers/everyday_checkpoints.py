"""Tiny checkpoints of families that people use beside BERT, GPT-2 and T5, with the faults that theirs have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from peftkit.data.miniglue import sentences

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # RoBERTa's order: its pad token has id 1
BERT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "sep_token_id": 2,
}  # fmt: skip
BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip
T5 = {
    "d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2, "pad_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1,
}  # fmt: skip
DECODER = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
CHECKPOINTS: dict[str, tuple[str, str, str, dict[str, Any]]] = {  # model= for it, its class, its config, settings
    "roberta": ("roberta", "RobertaForMaskedLM", "RobertaConfig", BERT | {"type_vocab_size": 1}),
    "xlm-roberta": ("roberta", "XLMRobertaForMaskedLM", "XLMRobertaConfig", BERT | {"type_vocab_size": 1}),
    "longformer": (
        "roberta", "LongformerForMaskedLM", "LongformerConfig",
        BERT | {"attention_window": [8, 8], "max_position_embeddings": 74, "type_vocab_size": 1},
    ),
    "big_bird": (
        "bert", "BigBirdForMaskedLM", "BigBirdConfig",
        BERT | {"block_size": 2, "num_random_blocks": 1, "attention_type": "block_sparse"},
    ),
    "roformer": ("bert", "RoFormerForMaskedLM", "RoFormerConfig", BERT | {"embedding_size": 32}),
    "mpnet": ("bert", "MPNetForMaskedLM", "MPNetConfig", BERT),
    "albert": ("bert", "AlbertForMaskedLM", "AlbertConfig", BERT | {"embedding_size": 16}),
    "deberta-v2": (
        "bert", "DebertaV2ForMaskedLM", "DebertaV2Config",
        # with small weights the gradients of its positions would be rounded to zero
        BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "initializer_range": 0.2},
    ),
    "mt5": ("t5", "MT5ForConditionalGeneration", "MT5Config", T5 | {"feed_forward_proj": "gated-gelu"}),
    "bart": ("t5", "BartForConditionalGeneration", "BartConfig", BART),
    "pegasus": ("t5", "PegasusForConditionalGeneration", "PegasusConfig", BART),
    "opt": (
        "gpt2", "OPTForCausalLM", "OPTConfig",
        DECODER | {"ffn_dim": 32, "word_embed_proj_dim": 32, "pad_token_id": 1},
    ),
    "llama": ("gpt2", "LlamaForCausalLM", "LlamaConfig", DECODER | {"num_key_value_heads": 1}),
    "gpt_neox": ("gpt2", "GPTNeoXForCausalLM", "GPTNeoXConfig", DECODER),
    "gpt2": ("gpt2", "GPT2LMHeadModel", "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}),
}  # fmt: skip


def write_checkpoint(
    name: str,
    folder: Path,
    special: Sequence[str] = ("pad", "eos", "bos", "unk", "sep", "cls", "mask"),
    max_length: int | None = None,
    **settings: Any,
) -> Path:
    """Write an untrained checkpoint.

    Args:
        special: the special tokens that its tokenizer names.
        max_length: that its tokenizer knows; None as in many files: none.
        settings: of the model's config.
    """
    _, model_class, config_class, own = CHECKPOINTS[name]
    tokenizer = tokenizer_of(name, special, max_length)
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**own | {"vocab_size": len(tokenizer)} | settings)
    getattr(transformers, model_class)(config).eval().save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def tokenizer_of(name: str, special: Sequence[str], max_length: int | None) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words; of an encoder and BART with <s> and </s>, of T5 with </s>."""
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary())}, unk_token="<unk>"))
    digits = pre_tokenizers.Digits(individual_digits=True)  # of the scores that T5 generates
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), digits])
    add: Callable[..., Any] = processors.TemplateProcessing
    if CHECKPOINTS[name][0] == "t5":
        start = "" if name == "mt5" else "<s> "
        backend.post_processor = add(f"{start}$A </s>", f"{start}$A </s> $B </s>", [("<s>", 0), ("</s>", 2)])
    elif CHECKPOINTS[name][0] != "gpt2":
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    texts = {"pad": "<pad>", "eos": "</s>", "bos": "<s>", "unk": "<unk>", "sep": "</s>", "cls": "<s>", "mask": "<mask>"}
    named = {f"{key}_token": texts[key] for key in special}
    if CHECKPOINTS[name][0] == "gpt2":
        named = {key: token for key, token in named.items() if key not in ("cls_token", "sep_token", "mask_token")}
    length = {} if max_length is None else {"model_max_length": max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **named, **length
    )


@lru_cache
def vocabulary() -> list[str]:
    """Return the special tokens and the words of the generated texts."""
    words = {word.strip(".,").lower() for document in sentences(300) for word in document.split()}
    return [
        *SPECIAL,
        ".",
        ",",
        ":",
        "?",
        *sorted(words | {"no", "yes", "who", "it", "saw", "actor", "film", *"0123456789"}),
    ]
