"""A head over frozen layers reads their learned mix, whatever head it is, and both come back when they are loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import commands
from helpers.commands import check
from peft import PeftModel, get_peft_model
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

import peftkit
from peftkit.config import UserError
from peftkit.methods import apply_method, merge_adapter
from peftkit.methods.layer_mix import LayerMix, LayerMixConfig
from peftkit.models.heads import CLASSIFIERS

BERT = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
}  # fmt: skip
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 2, "pad_token_id": 0, "bos_token_id": 1}
GPT2 |= {"eos_token_id": 1}
DISTILBERT = DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2, hidden_dim=48)
Head = Callable[[Any, torch.Tensor], torch.Tensor]
# the model, PEFT's name of its task, and what its head does with states (1, tokens, width), written out
MODELS: dict[str, tuple[Any, Any, str, Head]] = {
    "bert": (
        BertForSequenceClassification, BertConfig(**BERT), "SEQ_CLS",
        lambda m, mix: m.classifier(torch.tanh(m.bert.pooler.dense(mix[:, 0]))),
    ),
    "bert-mean": (
        CLASSIFIERS["bert"][1], CLASSIFIERS["bert"][0](**BERT), "SEQ_CLS",
        lambda m, mix: m.classifier(mix.mean(dim=1)),
    ),
    "bert-token": (
        BertForTokenClassification, BertConfig(**BERT, num_labels=3), "TOKEN_CLS", lambda m, mix: m.classifier(mix),
    ),
    "bert-qa": (
        BertForQuestionAnswering, BertConfig(**BERT), "QUESTION_ANS", lambda m, mix: m.qa_outputs(mix)[..., 0],
    ),
    "roberta": (
        RobertaForSequenceClassification, RobertaConfig(**BERT, pad_token_id=0), "SEQ_CLS",
        lambda m, mix: m.classifier.out_proj(torch.tanh(m.classifier.dense(mix[:, 0]))),
    ),
    "distilbert": (
        DistilBertForSequenceClassification, DISTILBERT, "SEQ_CLS",
        lambda m, mix: m.classifier(torch.relu(m.pre_classifier(mix[:, 0]))),
    ),
    "gpt2": (GPT2ForSequenceClassification, GPT2Config(**GPT2), "SEQ_CLS", lambda m, mix: m.score(mix[:, -1])),
    "gpt2-token": (
        GPT2ForTokenClassification, GPT2Config(**GPT2, num_labels=3), "TOKEN_CLS", lambda m, mix: m.classifier(mix),
    ),
    "gpt2-qa": (
        GPT2ForQuestionAnswering, GPT2Config(**GPT2), "QUESTION_ANS", lambda m, mix: m.qa_outputs(mix)[..., 0],
    ),
}  # fmt: skip
SCORES, GAMMA = [0.3, -1.0, 2.0], 1.7
LONG, SHORT = [5, 6, 7, 8, 9, 2], [10, 11, 12, 2]
Words = Callable[..., list[str]]


def build(name: str) -> Any:
    model_class, config, *_ = MODELS[name]
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def wrapped(name: str, layer_norm: bool = False, fresh: bool = False) -> Any:
    model = get_peft_model(build(name), LayerMixConfig(task_type=MODELS[name][2], layer_norm=layer_norm)).eval()
    if not fresh:
        with torch.no_grad():
            mix_of(model).layer_mix_scores["default"].copy_(torch.tensor(SCORES))
            mix_of(model).layer_mix_gamma["default"].fill_(GAMMA)
    return model


def mix_of(model: Any) -> LayerMix:
    (mix,) = (module for module in model.modules() if isinstance(module, LayerMix))
    return mix


def batch(*rows: list[int]) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def answer(model: Any, inputs: dict[str, torch.Tensor], **more: Any) -> torch.Tensor:
    with torch.no_grad():
        out = model(**inputs, **more)
    return out.start_logits if "start_logits" in out else out.logits


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_the_head_reads_the_weighted_sum_of_all_hidden_states(name: str, layer_norm: bool) -> None:
    base = build(name)
    with torch.no_grad():
        states = base(**batch(LONG), output_hidden_states=True).hidden_states
        if layer_norm:
            states = [
                (s - s.mean(-1, keepdim=True)) / (s.var(-1, keepdim=True, correction=0) + 1e-5).sqrt() for s in states
            ]
        powers = [2.718281828459045**score for score in SCORES]
        mix = GAMMA * sum(power / sum(powers) * state for power, state in zip(powers, states, strict=True))
        expected = MODELS[name][3](base, mix)
    torch.testing.assert_close(answer(wrapped(name, layer_norm), batch(LONG)), expected, rtol=1e-5, atol=1e-5)


def test_a_fresh_mix_is_the_mean_of_all_layers() -> None:
    base = build("bert-mean")
    with torch.no_grad():
        mean = torch.stack(base(**batch(LONG), output_hidden_states=True).hidden_states).mean(dim=0)
        expected = base.classifier(mean.mean(dim=1))
    torch.testing.assert_close(answer(wrapped("bert-mean", fresh=True), batch(LONG)), expected)


@pytest.mark.parametrize("name", MODELS)
def test_a_row_says_the_same_alone_and_in_a_padded_batch(name: str) -> None:
    model = wrapped(name)
    alone, together = answer(model, batch(SHORT)), answer(model, batch(SHORT, LONG))[:1]
    if alone.dim() > 1 and alone.shape[1] == len(SHORT):  # a score a token
        together = together[:, : len(SHORT)]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_scores_gamma_and_head_train_and_no_other_weight_changes_a_bit(name: str, checkpointing: bool) -> None:
    model = wrapped(name).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    before = {key: weight.detach().clone() for key, weight in model.named_parameters()}
    out = model(**batch(LONG, SHORT))
    (out.start_logits if "start_logits" in out else out.logits).pow(2).sum().backward()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    optimizer.step()
    changed = {key for key, weight in model.named_parameters() if not torch.equal(weight, before[key])}
    assert changed == {key for key, weight in model.named_parameters() if weight.requires_grad}
    heads = {"classifier", "score", "qa_outputs", "pre_classifier"}
    assert all("layer_mix_" in key or ("modules_to_save" in key and heads & set(key.split("."))) for key in changed)
    assert sum("layer_mix_" in key for key in changed) == 2


@pytest.mark.parametrize("name", MODELS)
def test_plain_peft_loads_what_was_saved(name: str, tmp_path: Path) -> None:
    model = wrapped(name, layer_norm=True)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "modules_to_save" in key:
                weight.add_(0.1)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(build(name), str(tmp_path)).eval()
    assert torch.equal(answer(again, batch(LONG)), answer(model, batch(LONG)))
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 20_000  # the mix and the head, no base


@pytest.mark.parametrize("name", MODELS)
def test_the_base_is_itself_again_where_the_mix_is_off_or_gone(name: str) -> None:
    base, model = build(name), wrapped(name)
    with model.disable_adapter():
        assert torch.equal(answer(model, batch(LONG)), answer(base, batch(LONG)))
    plain = model.unload()
    assert not any(isinstance(module, LayerMix) for module in plain.modules())
    assert torch.equal(answer(plain, batch(LONG)), answer(base, batch(LONG)))


def test_a_caller_gets_hidden_states_and_tuples_only_where_it_asks() -> None:
    model = get_peft_model(BertModel(BertConfig(**BERT)), LayerMixConfig()).eval()
    plain = model(**batch(LONG))
    assert "hidden_states" not in plain
    asked = model(**batch(LONG), output_hidden_states=True)
    assert len(asked.hidden_states) == 3
    assert not torch.equal(asked.hidden_states[-1], asked.last_hidden_state)
    first, pooled = model(**batch(LONG), return_dict=False)
    assert torch.equal(first, plain.last_hidden_state) and torch.equal(pooled, plain.pooler_output)


def test_each_row_may_name_its_mix() -> None:
    model = wrapped("bert-mean")
    model.add_adapter("other", LayerMixConfig(task_type="SEQ_CLS", layer_norm=True))
    found = answer(model, batch(LONG, LONG, LONG), adapter_names=["other", "default", "__base__"])
    model.set_adapter("default")
    torch.testing.assert_close(found[1:2], answer(model, batch(LONG)))
    model.set_adapter("other")
    torch.testing.assert_close(found[:1], answer(model, batch(LONG)))
    torch.testing.assert_close(found[2:], answer(build("bert-mean"), batch(LONG)))


def test_a_model_without_a_head_is_refused() -> None:
    assert "a text-to-text model has none; use method=lora" in check(["model=t5", "method=linear_probe_mix"])[0]
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2))
    with pytest.raises(UserError, match="use method=lora"):
        apply_method(t5, LayerMixConfig())


def test_a_mix_is_not_merged() -> None:
    with pytest.raises(UserError, match="layer_mix cannot be merged"):
        merge_adapter(wrapped("bert"))


@pytest.mark.slow
def test_a_run_is_loaded_in_a_fresh_process_by_plain_peft(tiny: Words) -> None:
    (folder,) = commands.finetune(
        *tiny("bert", "method=linear_probe_mix", "model.pooling=mean", "task=sst2", "train.bf16=false")
    )
    result = json.loads((folder / "result.json").read_text())
    assert result["gates"]["reload_difference"] < 1e-5 and result["gates"]["padding_difference"] < 1e-5
    assert result["costs"]["trainable_params"] == result["costs"]["head_params"] + 4  # two layers, embeddings, gamma
    net, tokenizer = peftkit.load(folder)
    text = "the film is not bad ."
    with torch.no_grad():
        expected = net(**tokenizer([text], return_tensors="pt")).logits
    base = result["audit"]["sources"]["model"]["name"]
    code = (
        "import peftkit; from peft import PeftModel; from transformers import *\n"
        f"config = AutoConfig.from_pretrained({str(folder / 'adapter' / 'base')!r})\n"
        f"base = AutoModelForSequenceClassification.from_pretrained({base!r}, config=config)\n"
        f"model = PeftModel.from_pretrained(base, {str(folder / 'adapter')!r}).eval()\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(folder / 'adapter')!r})\n"
        f"print(model(**tokenizer([{text!r}], return_tensors='pt')).logits.tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    torch.testing.assert_close(torch.tensor(json.loads(out.splitlines()[-1])), expected, rtol=0, atol=1e-5)
