"""A merged model, read back from disk, gives the logits of its adapter, also where the adapted matrix was tied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.merge_models import MERGES, part, randomize
from hydra.utils import instantiate
from peft import LoraConfig
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)

from peftkit.config import UserError
from peftkit.methods import apply_method, merge_adapter

ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
# the class that reads it, its settings, its input embeddings, its output layer
FAMILIES: dict[str, tuple[Any, dict[str, Any], list[str], str]] = {
    "gpt2": (AutoModelForCausalLM, {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}, ["wte"], "lm_head"),
    "llama": (AutoModelForCausalLM, ENCODER, ["embed_tokens"], "lm_head"),
    "bert": (AutoModelForMaskedLM, ENCODER, ["word_embeddings"], "decoder"),
    "roberta": (AutoModelForMaskedLM, ENCODER, ["word_embeddings"], "decoder"),
    "distilbert": (
        AutoModelForMaskedLM,
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
        ["word_embeddings"],
        "vocab_projector",
    ),
    "electra": (AutoModelForMaskedLM, ENCODER | {"embedding_size": 16}, ["word_embeddings"], "generator_lm_head"),
    "t5": (AutoModelForSeq2SeqLM, T5, ["shared", "embed_tokens", "encoder.embed_tokens"], "lm_head"),
    "mt5": (AutoModelForSeq2SeqLM, T5, ["shared", "embed_tokens"], "lm_head"),
    "umt5": (AutoModelForSeq2SeqLM, T5, ["shared", "decoder.embed_tokens"], "lm_head"),
    "bart": (AutoModelForSeq2SeqLM, BART, ["shared", "embed_tokens"], "lm_head"),
}
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
MORE: dict[str, dict[str, Any]] = {  # further methods of PEFT, and settings of those that conf/method ships
    "loha": {"_target_": "peft.LoHaConfig", "r": 2},
    "lokr": {"_target_": "peft.LoKrConfig", "r": 2},
    "tied_lora": {"_target_": "peft.LoraConfig", "r": 2, "ensure_weight_tying": True},
    "lora_bias": {"_target_": "peft.LoraConfig", "r": 2, "lora_bias": True},
}
METHODS = [*MERGES, *MORE, "modules_to_save", "shipped"]


def build(family: str, is_tied: bool, folder: Path) -> tuple[Any, PreTrainedModel]:
    """Return the class of a family and a tiny model of it, loaded from a folder, with tied or separate embeddings."""
    auto, settings, _, output = FAMILIES[family]
    torch.manual_seed(0)
    more = {} if family == "bart" else {"pad_token_id": 0}
    model = auto.from_config(
        AutoConfig.for_model(family, vocab_size=40, tie_word_embeddings=is_tied, **settings, **more)
    )
    if not is_tied:  # T5's config sets it to True, and its file has two matrices
        layer = next(module for name, module in model.named_modules() if name.endswith(output))
        layer.weight = torch.nn.Parameter(torch.randn_like(layer.weight))
    model.save_pretrained(folder)
    return auto, auto.from_pretrained(folder)


def settings_of(method: str, targets: list[str]) -> dict[str, Any]:
    """Return the config of a method for these target modules."""
    if method == "modules_to_save":
        return {**part("lora")["config"], "modules_to_save": targets}
    if method == "shipped":
        return part("lora")["config"]
    config = {**MORE.get(method, {}), "target_modules": targets} if method in MORE else {**part(method)["config"]}
    config |= {"target_modules": targets}
    config |= {"feedforward_modules": []} if method == "ia3" else {"total_step": 10} if method == "adalora" else {}
    if method in ("oft", "boft"):
        config |= {"oft_block_size": 8, "r": 0} if method == "oft" else {"boft_block_size": 4, "boft_block_num": 0}
    return config


def differences(family: str, is_tied: bool, method: str, folder: Path) -> Iterator[tuple[list[str], float, float]]:
    """Yield for each target of a family how logits change by merging, and by reading the merged model from disk."""
    _, _, inputs, output = FAMILIES[family]
    targets = [[name] for name in (*inputs, output)] + [[inputs[-1], output]]
    for chosen in targets[:1] if method == "shipped" else targets:
        auto, model = build(family, is_tied, folder / "base")
        try:
            tuned = apply_method(model, instantiate(settings_of(method, chosen), _convert_="all"), "language_modeling")
        except UserError:
            continue  # most methods do not fit an embedding
        randomize(tuned.eval())
        batch = {"input_ids": IDS} | ({"decoder_input_ids": IDS[:, :3]} if model.config.is_encoder_decoder else {})
        with torch.no_grad():
            before = tuned(**batch).logits
            try:
                merged: Any = merge_adapter(tuned)
            except UserError:
                assert method == "lora_bias"  # which most output layers lack
                continue
            merged.save_pretrained(folder / "merged")
            read = auto.from_pretrained(folder / "merged").eval()
            scale = before.abs().max().clamp(min=1)
            after = (float((each(**batch).logits - before).abs().max() / scale) for each in (merged, read))
            yield chosen, *after


FAST = [("gpt2", "lora"), ("bert", "ia3"), ("t5", "lora"), ("umt5", "modules_to_save"), ("roberta", "lora_bias")]
CASES = [
    pytest.param(family, method, marks=() if (family, method) in FAST else pytest.mark.slow)
    for family in FAMILIES
    for method in METHODS
]


@pytest.mark.parametrize(("family", "method"), CASES)
def test_merging_preserves_the_logits(family: str, method: str, tmp_path: Path) -> None:
    for is_tied in (True, False):
        found = list(differences(family, is_tied, method, tmp_path))
        assert found or method == "lora_bias"
        for targets, in_memory, from_disk in found:
            assert max(in_memory, from_disk) < 1e-5, (is_tied, targets)


def test_weights_that_stay_equal_stay_tied(tmp_path: Path) -> None:
    _, model = build("gpt2", True, tmp_path)
    tuned = apply_method(model, instantiate(part("lora")["config"], _convert_="all"), "language_modeling")
    randomize(tuned)
    merged: Any = merge_adapter(tuned)
    assert merged.lm_head.weight is merged.transformer.wte.weight and merged.config.tie_word_embeddings


@pytest.mark.parametrize("settings", [{"target_modules": ["q", "shared"]}, {"modules_to_save": ["shared"]}])
def test_an_embedding_that_is_never_called_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    _, model = build("t5", True, tmp_path)
    with pytest.raises(UserError, match=r"shared is never called, tokens are looked up in encoder\.embed_tokens"):
        apply_method(model, LoraConfig(r=2, **settings), "seq2seq")
