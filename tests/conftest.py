"""Tiny checkpoints of the three families and a small real task, made once a session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROWS = 24


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders of a tiny BERT, GPT-2 and T5 by the name of their model part."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import (
        BertConfig,
        BertModel,
        GPT2Config,
        GPT2LMHeadModel,
        PreTrainedTokenizerFast,
        T5Config,
        T5ForConditionalGeneration,
    )

    from peftkit.data.miniglue import sentences
    from peftkit.models.mini import train_tokenizer

    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    documents = list(sentences(300))
    words = sorted({word.strip(".,").lower() for document in documents for word in document.split()})
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", ",", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    bert_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    bert = BertModel(
        BertConfig(
            vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
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
    found = {}
    for name, model, its_tokenizer in (
        ("bert", bert, bert_tokenizer),
        ("gpt2", gpt2, gpt2_tokenizer),
        ("t5", t5, t5_tokenizer),
    ):
        found[name] = root / name
        model.save_pretrained(str(found[name]))
        its_tokenizer.save_pretrained(str(found[name]))
    return found


@pytest.fixture
def tiny(checkpoints: dict[str, Path], tmp_path: Path):
    """Return the words of a run on a tiny checkpoint: tiny("bert", "task=mrpc", ...)."""

    def words(model: str, *more: str) -> list[str]:
        return [
            f"model={model}", f"model.checkpoint={checkpoints[model]}", "source=embedded", f"out={tmp_path}/outputs",
            f"task.max_train_rows={ROWS}", f"task.max_eval_rows={ROWS}", "train.num_train_epochs=1",
            "train.per_device_train_batch_size=8", "train.disable_tqdm=true", *more,
        ]  # fmt: skip

    return words
