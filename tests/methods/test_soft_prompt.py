"""Soft prompts are right on every family and head: no head sees a position that is not the text's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.soft_prompt_models import KINDS, LONG, MODELS, NO_PREFIX, SHORT, answer, batch, build, wrapped
from peft import PeftModel

from peftkit.methods.soft_prompt import SoftPromptConfig, keys_and_values, replace_prompt_encoders
from peftkit.methods.soft_prompt.prefix import PrefixLayer

CELLS = [
    pytest.param(name, kind, id=f"{name}-{kind}")
    for name in MODELS
    for kind in KINDS
    if name not in NO_PREFIX or not kind.startswith("prefix")
]


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_a_row_says_the_same_alone_and_in_a_padded_batch(name: str, kind: str) -> None:
    model = wrapped(name, kind)
    alone = answer(model, batch(name, [SHORT]))[0]
    for side in ("right", "left") if name.startswith(("gpt2", "llama", "opt")) else ("right",):
        if side == "left" and name in ("gpt2-token", "gpt2-qa"):
            continue  # transformers gives these no positions for pads on the left: their own base differs
        together = answer(model, batch(name, [LONG, SHORT], side))[1]
        if together.shape != alone.shape:  # one answer a token
            together = together[-len(SHORT) :] if side == "left" else together[: len(SHORT)]
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_heads_see_the_text_alone_and_the_prompt_changes_what_they_say(name: str, kind: str) -> None:
    model = wrapped(name, kind)
    inputs = batch(name, [LONG, SHORT])
    with model.disable_adapter():
        plain = answer(model, inputs)
    torch.testing.assert_close(plain, answer(build(name), inputs), rtol=0, atol=1e-5)
    changed = answer(model, inputs)
    assert changed.shape == plain.shape
    assert not torch.allclose(changed, plain, atol=1e-4)
    torch.testing.assert_close(answer(model.unload(), inputs), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_every_weight_that_trains_moves_and_none_else(name: str, kind: str) -> None:
    model = wrapped(name, kind).train()
    before = {n: w.detach().clone() for n, w in model.named_parameters()}
    optimizer = torch.optim.Adam([w for w in model.parameters() if w.requires_grad], lr=0.1)
    answer(model, batch(name, [LONG, SHORT])).square().sum().backward()
    optimizer.step()
    for n, weight in model.named_parameters():
        assert torch.equal(weight, before[n]) != weight.requires_grad, n
    assert any("soft_prompt_" in n and w.requires_grad for n, w in model.named_parameters())


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_folded_saved_and_loaded_by_plain_peft_it_says_the_same(name: str, kind: str, tmp_path: Path) -> None:
    model = wrapped(name, kind)
    inputs = batch(name, [LONG, SHORT])
    expected = answer(model, inputs)
    replace_prompt_encoders(model)
    assert not any("encoder.default" in n for n, _ in model.named_parameters())
    torch.testing.assert_close(answer(model, inputs), expected, rtol=1e-5, atol=2e-5)
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(build(name), str(tmp_path)).eval()
    torch.testing.assert_close(answer(again, inputs), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bert-cls", "gpt2-cls", "t5-lm"])
def test_unfolded_weights_are_saved_and_loaded_so_that_training_goes_on(name: str, kind: str, tmp_path: Path) -> None:
    model = wrapped(name, kind)
    inputs = batch(name, [LONG, SHORT])
    expected = answer(model, inputs)
    model.save_pretrained(str(tmp_path))
    again = wrapped(name, kind)
    for n, weight in again.named_parameters():
        if "soft_prompt_" in n:
            torch.nn.init.zeros_(weight)
    again.load_adapter(str(tmp_path), "default", is_trainable=True)
    torch.testing.assert_close(answer(again, inputs), expected)


@pytest.mark.parametrize("name", ["bert-cls", "gpt2-cls", "gpt2-lm", "t5-lm", "mt5-lm", "bart-lm"])
def test_a_prompt_is_what_the_same_embeddings_before_the_text_are(name: str) -> None:
    """By hand: the base is given the prompt's vectors and the text's embeddings, and its states are cut."""
    model, base = wrapped(name, "prompt"), build(name)
    inputs = batch(name, [LONG])
    is_seq2seq = base.config.is_encoder_decoder
    backbone = base.get_encoder() if is_seq2seq else getattr(base, base.base_model_prefix)
    vectors = next(w for n, w in model.named_parameters() if "soft_prompt_vectors" in n)
    states = torch.cat([vectors[None], backbone.get_input_embeddings()(inputs["input_ids"])], dim=1)
    said = answer(model, inputs)
    if is_seq2seq:
        by_hand = base(inputs_embeds=states, labels=inputs["labels"]).logits
    else:
        hidden = backbone(inputs_embeds=states).last_hidden_state[:, 3:]
        if name == "bert-cls":
            by_hand = base.classifier(base.bert.pooler(hidden))
            said = answer(model, inputs)
            assert not torch.allclose(said[0], base(inputs_embeds=states).logits[0], atol=1e-3)  # pools the prompt
        elif name == "gpt2-cls":
            by_hand = base.score(hidden[:, -1])
        else:
            by_hand = base.lm_head(hidden)
    torch.testing.assert_close(said, by_hand, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2-lm", "llama-lm"])
def test_a_prefix_of_real_tokens_keys_and_values_is_those_tokens(name: str) -> None:
    """Causal states depend on what came before alone, so that a text's start may be given as its keys and values."""
    model, start = wrapped(name, "prefix"), torch.tensor([[20, 21, 22]])
    layer = next(m for m in model.modules() if isinstance(m, PrefixLayer))
    stack = getattr(model.base_model.model, model.base_model.model.base_model_prefix)
    vectors = keys_and_values(start, [stack])[0]
    layer.soft_prompt_vectors["default"] = torch.nn.Parameter(vectors)
    inputs = batch(name, [LONG])
    said = model(**inputs, position_ids=torch.arange(3, 3 + len(LONG))[None]).logits
    whole = build(name)(torch.cat([start, inputs["input_ids"]], dim=1)).logits
    torch.testing.assert_close(said, whole[:, 3:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
@pytest.mark.parametrize("name", ["gpt2-lm", "llama-lm", "t5-lm", "mt5-lm", "bart-lm"])
def test_generation_reads_the_prompt_once_with_and_without_a_cache(name: str, kind: str) -> None:
    model = wrapped(name, kind)
    inputs = {key: rows for key, rows in batch(name, [LONG, SHORT], "left").items() if key != "labels"}
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = model.generate(**inputs, use_cache=True, **settings)
    assert torch.equal(cached, model.generate(**inputs, use_cache=False, **settings))
    alone = {key: rows[1:, -len(SHORT) :] for key, rows in inputs.items()}
    assert torch.equal(cached[1:, -6:], model.generate(**alone, **settings)[:, -6:])


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
@pytest.mark.parametrize("name", ["bert-cls", "gpt2-lm", "t5-lm"])
def test_each_row_of_a_batch_may_have_its_own_prompt(name: str, kind: str) -> None:
    model = wrapped(name, kind)
    model.add_adapter("second", SoftPromptConfig(task_type=MODELS[name][2], num_virtual_tokens=3, **KINDS[kind]))
    rows = ["second", "default"] + (["__base__"] if kind == "prefix" else ["second"])
    texts = [SHORT, LONG, SHORT]
    inputs = batch(name, texts)
    mixed = answer(model, inputs, adapter_names=rows)
    for number, wanted in enumerate(rows):
        expected = answer(model, inputs, adapter_names=[wanted] * 3)[number]
        real = len(texts[number]) if name == "gpt2-lm" else None  # what is said of pads is nothing
        torch.testing.assert_close(mixed[number][:real], expected[:real], rtol=0, atol=1e-5)
    model.set_adapter("second")
    torch.testing.assert_close(answer(model, inputs)[0], mixed[0], rtol=0, atol=1e-5)
    if kind == "prompt":
        with pytest.raises(ValueError, match="predict them separately"):
            answer(model, inputs, adapter_names=["second", "__base__", "second"])


@pytest.mark.parametrize("is_reentrant", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bert-cls", "gpt2-lm", "t5-lm"])
def test_gradient_checkpointing_changes_no_gradient(name: str, kind: str, is_reentrant: bool) -> None:
    def gradients(checkpoint: bool) -> dict[str, Any]:
        model = wrapped(name, kind).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        if checkpoint:
            model.gradient_checkpointing_enable({"use_reentrant": is_reentrant})
            model.enable_input_require_grads()
        answer(model, batch(name, [LONG, SHORT])).square().sum().backward()
        return {n: w.grad for n, w in model.named_parameters() if "soft_prompt_" in n}

    plain, saved = gradients(False), gradients(True)
    for n, gradient in plain.items():
        torch.testing.assert_close(saved[n], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NO_PREFIX)
def test_a_prefix_of_another_attention_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"prefix tuning supports no attention of .*; use another method"):
        wrapped(name, "prefix")


def test_t5_prefixes_reach_encoder_decoder_and_cross_attention() -> None:
    model = wrapped("t5-lm", "prefix")
    encoder, decoder = (m for m in model.modules() if isinstance(m, PrefixLayer))
    assert encoder.vector_dim == 2 * 2 * 32  # keys and values of two layers
    assert decoder.vector_dim == 2 * 2 * 2 * 32  # of self-attention and cross-attention


def test_a_text_too_long_for_prompt_and_positions_is_refused_with_what_to_set() -> None:
    model = wrapped("bert-cls", "prompt")
    with pytest.raises(ValueError, match="max_length=37"):
        answer(model, batch("bert-cls", [[5] * 39]))


@pytest.mark.parametrize(
    "setting", [{"kind": "x"}, {"num_virtual_tokens": 0}, {"init": "x"}, {"init": "text"}, {"encoder": "x"}]
)
def test_values_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        SoftPromptConfig(**setting)
