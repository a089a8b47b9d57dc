"""Mixes of prefix, adapter and LoRA compute what their papers say, and see neither padding nor later tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.commands import compose_config
from helpers.mix_models import CELLS, MIXES, own_weights, strong, wrapped
from helpers.soft_prompt_models import LONG, MODELS, SHORT, answer, batch, build
from hydra.utils import instantiate
from omegaconf import OmegaConf
from peft import get_peft_model
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from peftkit.compat.peft import disabled_adapters
from peftkit.methods.adapter_layers import BottleneckLayer
from peftkit.methods.mix import GatedPrefixLayer, LowRankLayer
from peftkit.methods.soft_prompt import SoftPromptConfig
from peftkit.methods.soft_prompt.prefix import Prefix, prefix_attention
from peftkit.models.heads import CLASSIFIERS, mean_pooling_config


@pytest.mark.parametrize(("name", "mix"), CELLS)
def test_a_row_says_the_same_alone_and_in_a_padded_batch(name: str, mix: str) -> None:
    model = strong(wrapped(name, mix))
    alone = answer(model, batch(name, [SHORT]))[0]
    for side in ("right", "left") if name in ("gpt2-cls", "gpt2-lm", "llama-lm") else ("right",):
        together = answer(model, batch(name, [LONG, SHORT], side))[1]
        if together.shape != alone.shape:  # one answer a token
            together = together[-len(SHORT) :] if side == "left" else together[: len(SHORT)]
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mix", MIXES)
def test_mean_pooling_classifiers_see_no_padding_either(mix: str) -> None:
    base = CLASSIFIERS["bert"][1](mean_pooling_config(MODELS["bert-cls"][1])).eval()
    model = strong(wrapped("bert-cls", mix, base))
    alone, together = (answer(model, batch("bert-cls", rows)) for rows in ([SHORT], [LONG, SHORT]))
    torch.testing.assert_close(together[1], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "mix"), CELLS)
def test_disabled_it_is_its_base_and_fresh_its_adapter_and_lora_change_nothing(name: str, mix: str) -> None:
    model, inputs = wrapped(name, mix), batch(name, [LONG, SHORT])
    fresh, plain = answer(model, inputs), answer(build(name), inputs)
    with disabled_adapters(model, BottleneckLayer):  # the prefix alone
        torch.testing.assert_close(answer(model, inputs), fresh, rtol=0, atol=1e-5)
    with model.disable_adapter():
        torch.testing.assert_close(answer(model, inputs), plain, rtol=0, atol=1e-5)
    assert not torch.allclose(answer(strong(model), inputs), plain, atol=1e-3)


def adapted(name: str, weights: dict[str, torch.Tensor], layer: str, x: torch.Tensor, act: Any) -> torch.Tensor:
    """A bottleneck by hand: up(act(down(x)))."""
    part = {
        n.split("bottleneck_")[1].replace(".default", ""): w
        for n, w in weights.items()
        if layer in n and "bottleneck_" in n
    }
    hidden = act(functional.linear(x, part["down.weight"], part.get("down.bias")))
    return functional.linear(hidden, part["up.weight"], part.get("up.bias"))


@pytest.mark.parametrize("name", ["bert-cls", "gpt2-lm"])
def test_mix_and_match_is_a_prefix_and_a_parallel_adapter_put_together_by_hand(name: str) -> None:
    mixed = strong(wrapped(name, "mam"))
    weights = own_weights(mixed)
    prefix = get_peft_model(
        build(name), SoftPromptConfig(kind="prefix", num_virtual_tokens=3, task_type=MODELS[name][2])
    ).eval()
    for key, weight in prefix.named_parameters():
        if "soft_prompt_vectors" in key:
            weight.data.copy_(weights[key])
    read: dict[str, torch.Tensor] = {}
    for key, module in prefix.named_modules():
        if name == "bert-cls" and key.endswith(("layer.0.output", "layer.1.output")):
            # called with what the feed-forward's first half gives, and the residual that it read
            def change(_: Any, args: Any, key: str = key) -> Any:
                return args[0], args[1] + 4 * adapted(name, weights, key, args[1], torch.relu)

            module.register_forward_pre_hook(change)
        elif name == "gpt2-lm" and key.endswith("ln_2"):
            module.register_forward_pre_hook(lambda _, args, key=key: read.__setitem__(key, args[0]))
        elif name == "gpt2-lm" and key.endswith("mlp"):

            def add(_: Any, args: Any, out: Any, key: str = key) -> Any:
                return out + 4 * adapted(name, weights, key, read[key.replace("mlp", "ln_2")], torch.relu)

            module.register_forward_hook(add)
    inputs = batch(name, [LONG, SHORT])
    torch.testing.assert_close(answer(mixed, inputs), answer(prefix, inputs), rtol=0, atol=1e-5)


def test_unipelt_is_the_papers_formulas_on_a_bert_layer() -> None:
    torch.manual_seed(0)
    base = BertForSequenceClassification(
        BertConfig(vocab_size=60, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12)
    ).eval()
    model = strong(wrapped("bert-cls", "unipelt", base, activation="relu"))
    w = {n.replace("base_model.model.bert.", "").replace(".default", ""): p for n, p in model.named_parameters()}
    inputs = batch("bert-cls", [LONG, SHORT])
    seen = inputs["attention_mask"].float()
    at, out = "encoder.layer.0.attention.self.", "encoder.layer.0.output.LayerNorm."

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, w[name + "weight"], w.get(name + "bias"))

    def mean(gate: torch.Tensor) -> torch.Tensor:
        return ((gate.sigmoid().squeeze(-1) * seen).sum(1) / seen.sum(1)).view(-1, 1, 1)

    def projected(x: torch.Tensor, name: str) -> torch.Tensor:
        change = linear(linear(x, f"{at}{name}.bottleneck_down."), f"{at}{name}.bottleneck_up.")
        return linear(x, f"{at}{name}.base_layer.") + mean(linear(x, f"{at}{name}.bottleneck_gate.")) * change

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (2, 4)).transpose(1, 2)

    h = model.base_model.model.bert.embeddings(inputs["input_ids"])
    gate = mean(linear(h, "soft_prompt.soft_prompt_gate."))
    keys, values = (gate * part for part in w["soft_prompt.soft_prompt_vectors"].chunk(2, dim=-1))
    query, key, value = projected(h, "query"), linear(h, f"{at}key."), projected(h, "value")
    key, value = torch.cat([keys, key], dim=1), torch.cat([values, value], dim=1)
    scores = heads(query) @ heads(key).transpose(2, 3) / 2.0  # the root of a head's width
    mask = torch.cat([torch.ones(2, 3), seen], dim=1)[:, None, None, :]
    context = (scores.masked_fill(mask == 0, float("-inf")).softmax(-1) @ heads(value)).transpose(1, 2).flatten(2)
    norm = {"normalized_shape": (8,), "eps": 1e-12}
    attended = functional.layer_norm(
        linear(context, "encoder.layer.0.attention.output.dense.") + h,
        weight=w["encoder.layer.0.attention.output.LayerNorm.weight"],
        bias=w["encoder.layer.0.attention.output.LayerNorm.bias"],
        **norm,
    )
    inner = functional.gelu(linear(attended, "encoder.layer.0.intermediate.dense."))
    fed = linear(inner, "encoder.layer.0.output.dense.") + attended
    last = {"weight": w[out + "base_layer.weight"], "bias": w[out + "base_layer.bias"], **norm}
    read = functional.layer_norm(fed, **last)
    change = linear(linear(read, f"{out}bottleneck_down.").relu(), f"{out}bottleneck_up.")
    states = functional.layer_norm(fed + mean(linear(read, f"{out}bottleneck_gate.")) * change, **last)
    expected = model.base_model.model.classifier(model.base_model.model.bert.pooler(states))
    torch.testing.assert_close(answer(model, inputs), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_gate_for_each_query_scales_the_prefixs_scores_and_values(
    scaling: float | None, has_bias: bool, groups: int
) -> None:
    torch.manual_seed(0)
    query, gate = torch.randn(2, 4, 5, 8), torch.rand(2, 1, 5, 1)
    key, value = torch.randn(2, 4 // groups, 5, 8), torch.randn(2, 4 // groups, 5, 8)
    keys, values = torch.randn(2, 4 // groups, 3, 8), torch.randn(2, 4 // groups, 3, 8)
    bias = torch.randn(1, 4, 5, 5) if has_bias else None
    attention = nn.Module().eval()
    attention.is_causal, attention.num_key_value_groups = True, groups
    attention.prefix_source = lambda *_: Prefix(keys, values, gate=gate)
    states, _ = prefix_attention(attention, query, key, value, None, scaling=scaling, position_bias=bias)
    key, value, keys, values = (x.repeat_interleave(groups, dim=1) for x in (key, value, keys, values))
    scale = 8**-0.5 if scaling is None else scaling
    scores = query @ key.transpose(2, 3) * scale + (0 if bias is None else bias)
    scores = scores.masked_fill(~torch.ones(5, 5).tril().bool(), float("-inf"))
    shares = torch.cat([gate * (query @ keys.transpose(2, 3)) * scale, scores], dim=-1).softmax(dim=-1)
    expected = gate * (shares[..., :3] @ values) + shares[..., 3:] @ value
    torch.testing.assert_close(states, expected.transpose(1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", ["gpt2-lm", "llama-lm", "t5-lm"])
def test_no_token_is_told_of_later_ones_and_a_cache_changes_no_text(name: str, mix: str) -> None:
    model, inputs = strong(wrapped(name, mix)), batch(name, [LONG])
    where = "labels" if name == "t5-lm" else "input_ids"
    inputs[where] = inputs[where].clone()
    before = answer(model, inputs)
    inputs[where][0, -1] = 30
    after = answer(model, inputs)
    known = inputs[where].shape[1] - (0 if name == "t5-lm" else 1)  # T5's labels are its next tokens already
    torch.testing.assert_close(after[:, :known], before[:, :known], rtol=0, atol=1e-5)
    prompt = {k: v for k, v in batch(name, [LONG, SHORT], "left").items() if k != "labels"}
    told = [
        model.generate(**prompt, max_new_tokens=6, do_sample=False, num_beams=2, use_cache=use_cache, pad_token_id=0)
        for use_cache in (True, False)
    ]
    assert torch.equal(*told)


def test_unipelt_reaches_every_attention_and_feed_forward_of_t5_once() -> None:
    model = wrapped("t5-lm", "unipelt")
    names = [n for n, module in model.named_modules() if isinstance(module, LowRankLayer)]
    assert len(names) == 2 * (2 + 4) and all(n.rpartition(".")[2] in ("q", "v") for n in names)
    gates = [module for module in model.modules() if isinstance(module, GatedPrefixLayer)]
    assert [len(gate.soft_prompt_gate["default"].weight) for gate in gates] == [2, 4]
    # the encoder's parts have means, and in the decoder the values of cross-attention alone, the encoder's own
    means = {
        n.partition(".bottleneck_gate")[0].removeprefix("base_model.model.")
        for n, module in model.named_modules()
        if n.endswith("bottleneck_gate.default") and module.token_mask is not None
    }
    layers = [
        f"encoder.block.{i}.layer.{part}" for i in (0, 1) for part in ("0.SelfAttention.q", "0.SelfAttention.v", "1")
    ]
    assert means == {*layers, *(f"decoder.block.{i}.layer.1.EncDecAttention.v" for i in (0, 1))}


def test_shipped_settings_are_the_papers() -> None:
    mam, unipelt = (
        instantiate(OmegaConf.to_container(compose_config([f"method={name}"]).method)["config"], _convert_="all")  # type: ignore[index]
        for name in ("mam", "unipelt")
    )
    assert (mam.kind, mam.scaling, mam.num_virtual_tokens, mam.rank, mam.gated) == ("parallel", 4.0, 30, None, False)
    assert (unipelt.kind, unipelt.reduction_factor, unipelt.num_virtual_tokens) == ("pfeiffer", 16, 10)
    assert (unipelt.rank, unipelt.alpha, unipelt.gated) == (8, None, True)
