"""What peftkit.compat uses of transformers 5.23, accelerate 1.15 and bitsandbytes 0.50: a failure names what changed."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BigBirdConfig,
    BigBirdModel,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from peftkit.compat import bitsandbytes, transformers

SIZES = {"vocab_size": 40, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


@pytest.mark.parametrize(
    ("package", "tested"), [("transformers", "5.23"), ("accelerate", "1.15"), ("bitsandbytes", "0.50")]
)
def test_the_versions_that_these_tests_describe(package: str, tested: str) -> None:
    assert version(package).startswith(tested), "run tests/compat against this version, then change it here"


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SIZES)).eval()


def test_a_registered_attention_is_called_with_the_masks_of_sdpa() -> None:
    masks = []

    def attention(module, query, key, value, attention_mask, **kwargs):
        masks.append(attention_mask)
        return transformers.sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    transformers.register_sdpa_attention("peftkit_test", attention)
    model, ids = bert(), torch.arange(5, 10).repeat(2, 1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert transformers.attention_implementation(model.config) == "sdpa"
    expected = model(input_ids=ids, attention_mask=mask).logits
    transformers.set_attention_implementation(model.config, "peftkit_test")
    assert transformers.attention_implementation(model.config) == "peftkit_test"
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected)
    assert [each.shape for each in masks] == [(2, 1, 5, 5)] * 2


TINY = {
    "bert": (BertForSequenceClassification, BertConfig(**SIZES)),
    "gpt2": (GPT2Model, GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2)),
    "llama": (LlamaModel, LlamaConfig(**SIZES, num_key_value_heads=1)),
    "t5": (T5ForConditionalGeneration, T5Config(**T5, decoder_start_token_id=0)),
}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("side", ["left", "right"])
def test_eager_attention_has_the_outputs_and_gradients_of_sdpa(name: str, side: str) -> None:
    torch.manual_seed(0)
    build, config = TINY[name]
    model: Any = build(config).eval()
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1] if side == "left" else [1, 1, 1, 0, 0]])
    batch = {"input_ids": torch.randint(1, 40, (2, 5)), "attention_mask": mask}
    batch |= {"labels": torch.randint(1, 40, (2, 3))} if name == "t5" else {}
    configs, found = transformers.sdpa_configs(model), []
    for chosen in ([], configs):
        with transformers.eager_attention(chosen):
            assert transformers.attention_implementation(model.config) == ("eager" if chosen else "sdpa")
            output = model(**batch)
        output = output[0][mask.bool()] if name in ("gpt2", "llama") else output.logits
        model.zero_grad()
        output.square().mean().backward()
        found.append([output, *(weight.grad for weight in model.parameters() if weight.grad is not None)])
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)


def test_an_attention_without_a_choice_stays_as_it_is() -> None:
    assert transformers.sdpa_configs(BigBirdModel(BigBirdConfig(**SIZES))) == []


def test_an_output_layer_stays_untied_when_embeddings_are_resized() -> None:
    model = T5ForConditionalGeneration(T5Config(**T5))
    model.lm_head.weight = nn.Parameter(model.shared.weight.detach().clone() + 1)
    assert "lm_head.weight" in model._tied_weights_keys
    transformers.keep_untied(model, model.lm_head)
    model.resize_token_embeddings(50, mean_resizing=False)
    assert model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()
    torch.testing.assert_close(model.lm_head.weight[:40], model.shared.weight[:40] + 1)


def test_an_auto_class_names_the_class_of_a_config() -> None:
    found = transformers.auto_model_class(AutoModelForSequenceClassification, BertConfig())
    assert found is BertForSequenceClassification


def test_the_classes_of_layers() -> None:
    assert isinstance(GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2)).h[0].mlp.c_fc, transformers.Conv1D)


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_the_weights_of_quantized_layers(bits: str, tmp_path: Path) -> None:
    plain = bert()
    plain.save_pretrained(tmp_path)
    quantized = BertForSequenceClassification.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(**{bits: True}), device_map="cpu"
    )
    layer, exact = (model.bert.encoder.layer[0].attention.self.query for model in (quantized, plain))
    assert transformers.is_quantized(layer)
    assert not transformers.is_quantized(exact)
    assert transformers.number_of_weights(layer.weight) == exact.weight.numel()
    torch.testing.assert_close(transformers.dequantized(layer).float(), exact.weight.detach(), rtol=0, atol=0.05)


def test_four_bit_layers_are_not_packed_on_the_cpu(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    model = BertForSequenceClassification.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True), device_map="cpu"
    )
    layers = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert layers
    transformers.disable_weight_packing(model)
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_bitsandbytes_imports_no_compiler_until_it_compiles() -> None:
    compiled = []

    def compiler(function, **settings):
        compiled.append(settings)
        return function

    with pytest.MonkeyPatch.context() as patch:
        call = bitsandbytes._compile_when_called(dynamic=False)(lambda x: x + 1)
        patch.setattr(torch, "compile", compiler)
        assert not compiled
        assert [call(1), call(2)] == [2, 3]
    assert compiled == [{"dynamic": False}]
