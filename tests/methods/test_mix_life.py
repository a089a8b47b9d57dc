"""Mixes live PEFT's whole life: trained, saved, loaded, named, switched, checkpointed, quantised, and never merged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.mix_models import CELLS, MIXES, own_weights, strong, wrapped
from helpers.soft_prompt_models import LONG, MODELS, SHORT, answer, batch, build
from peft import PeftConfig, PeftModel
from torch import nn

from peftkit.config import UserError
from peftkit.methods import merge_adapter, replace_prompt_encoders
from peftkit.methods.mix import GatedPrefixLayer, MixConfig

FEW = [pytest.param(name, mix, id=f"{name}-{mix}") for name in ("bert-cls", "gpt2-cls", "t5-lm") for mix in MIXES]


@pytest.mark.parametrize(("name", "mix"), CELLS)
def test_every_weight_that_trains_moves_and_none_else(name: str, mix: str) -> None:
    model = wrapped(name, mix)
    before = {n: w.detach().clone() for n, w in model.named_parameters()}
    optimizer = torch.optim.SGD([w for w in model.parameters() if w.requires_grad], lr=10.0)
    for _ in range(2):  # what is zero at the start passes no gradient before the second step
        optimizer.zero_grad()
        answer(model, batch(name, [LONG, SHORT])).square().mean().backward()
        optimizer.step()
    assert all(w.requires_grad for w in own_weights(model).values())
    for n, weight in model.named_parameters():
        assert torch.equal(weight, before[n]) != weight.requires_grad, n


@pytest.mark.parametrize(("name", "mix"), CELLS)
def test_it_lives_the_whole_peft_life(name: str, mix: str, tmp_path: Path) -> None:
    model, inputs = strong(wrapped(name, mix)), batch(name, [LONG, SHORT])
    first = answer(model, inputs)
    more = {"reduction_factor": 8, "num_virtual_tokens": 5}
    model.add_adapter("second", MixConfig(task_type=MODELS[name][2], **MIXES[mix] | more))
    assert all(w.requires_grad == (".default" in n) for n, w in own_weights(model).items())
    torch.testing.assert_close(answer(model, inputs), first)
    model.set_adapter("second")
    assert all(w.requires_grad == (".second" in n) for n, w in own_weights(model).items())
    for key, weight in own_weights(model).items():
        if ".second" in key:
            nn.init.normal_(weight, std=0.5)
    second = answer(model, inputs)
    assert not torch.allclose(first, second, atol=1e-4)
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(build(name), str(tmp_path / "second"), adapter_name="other").eval()
    again.load_adapter(str(tmp_path), "one")
    assert not any(w.requires_grad for w in again.parameters())
    told = PeftConfig.from_pretrained(str(tmp_path / "second"))
    assert isinstance(told, MixConfig) and told.num_virtual_tokens == 5 and told.reduction_factor == 8
    assert {key: getattr(told, key) for key in MIXES[mix] if key not in more} == {
        key: value for key, value in MIXES[mix].items() if key not in more
    }
    torch.testing.assert_close(answer(again, inputs), second)
    again.set_adapter("one")
    torch.testing.assert_close(answer(again, inputs), first)
    model.delete_adapter("default")
    assert model.active_adapters == ["second"] and not any(".default" in n for n in own_weights(model))
    torch.testing.assert_close(answer(model, inputs), second)
    plain = model.unload()
    assert not own_weights(plain)
    assert not [n for n, module in plain.named_modules() if module._forward_pre_hooks or module._forward_hooks]
    if MODELS[name][2] is None:  # PEFT keeps a head that it made trainable
        torch.testing.assert_close(answer(plain, inputs), answer(build(name), inputs))


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", ["bert-cls", "bert-token", "gpt2-cls", "llama-lm", "t5-lm"])
def test_each_row_of_a_batch_may_have_its_own_mix(name: str, mix: str) -> None:
    model = wrapped(name, mix)
    model.add_adapter("second", MixConfig(task_type=MODELS[name][2], num_virtual_tokens=2, **MIXES[mix]))
    inputs, names = batch(name, [LONG, SHORT, LONG, SHORT]), ["second", "__base__", "default", "default"]
    mixed = answer(strong(model), inputs, adapter_names=names)
    for row, wanted in enumerate(names):
        expected = answer(model, inputs, adapter_names=[wanted] * 4)
        real = slice(len(SHORT) if row % 2 and name != "t5-lm" else None)  # what stands at a pad is nobody's
        torch.testing.assert_close(mixed[row][real], expected[row][real], rtol=0, atol=1e-5)
    assert not torch.allclose(mixed[0], mixed[2], atol=1e-4)
    model.set_adapter("second")
    torch.testing.assert_close(mixed[0], answer(model, inputs)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "mix"), FEW)
def test_gradient_checkpointing_changes_no_gradient(name: str, mix: str) -> None:
    def gradients(is_checkpointed: bool) -> dict[str, Any]:
        model = strong(wrapped(name, mix)).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if is_checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        # two batches at once, so that a layer computed again must not take the later one's mask
        sum(answer(model, batch(name, rows)).square().sum() for rows in ([LONG, SHORT], [LONG, LONG])).backward()
        return {n: w.grad for n, w in own_weights(model).items()}

    plain, saved = gradients(False), gradients(True)
    for n, gradient in plain.items():
        torch.testing.assert_close(saved[n], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "mix"), FEW)
def test_bf16_autocast_says_nearly_the_same_and_trains(name: str, mix: str) -> None:
    model, inputs = strong(wrapped(name, mix)), batch(name, [LONG, SHORT])
    exact = answer(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = answer(model, inputs)
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1 * exact.abs().max().item())
    rounded.float().square().sum().backward()
    assert all(w.grad is not None and w.grad.isfinite().all() and w.grad.any() for w in own_weights(model).values())


@pytest.mark.parametrize("mix", MIXES)
def test_it_trains_over_a_4_bit_base(mix: str) -> None:
    import bitsandbytes as bnb

    base = build("bert-cls")
    for name, layer in list(base.bert.encoder.named_modules()):
        if isinstance(layer, nn.Linear):
            packed = bnb.nn.Linear4bit(layer.in_features, layer.out_features, quant_type="nf4")
            packed.load_state_dict(layer.state_dict())
            packed.support_avx512bf16_for_cpu = False  # packed weights do not propagate gradients
            base.bert.encoder.set_submodule(name, packed.to("cpu"))
    model = strong(wrapped("bert-cls", mix, base)).train()
    answer(model, batch("bert-cls", [LONG, SHORT])).square().sum().backward()
    assert all(w.grad is not None and w.grad.any() for w in own_weights(model).values())


@pytest.mark.parametrize(("name", "mix"), FEW)
def test_folded_and_saved_a_prefix_that_an_encoder_made_says_the_same(name: str, mix: str, tmp_path: Path) -> None:
    model = strong(wrapped(name, mix, encoder="mlp", encoder_hidden_size=4))
    inputs = batch(name, [LONG, SHORT])
    expected = answer(model, inputs)
    replace_prompt_encoders(model)
    assert not any("encoder.default" in n for n in own_weights(model)) and model.peft_config["default"].encoder is None
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(build(name), str(tmp_path)).eval()
    torch.testing.assert_close(answer(again, inputs), expected)


@pytest.mark.parametrize("name", ["bert-cls", "t5-lm"])
def test_a_copy_of_the_model_is_its_own(name: str) -> None:
    model, inputs = strong(wrapped(name, "unipelt")), batch(name, [LONG, SHORT])
    expected, twin = answer(model, inputs), copy.deepcopy(model)
    strong(model, seed=3)
    answer(model, batch(name, [LONG, LONG]))
    torch.testing.assert_close(answer(twin, inputs), expected)


@pytest.mark.parametrize("mix", MIXES)
def test_merging_is_refused_with_what_to_do(mix: str) -> None:
    model = wrapped("bert-cls", mix)
    with pytest.raises(ValueError, match=r"a mix is not a linear change .* use unload"):
        model.merge_and_unload()
    with pytest.raises(UserError, match=r"mix cannot be merged: .* keep the adapter folder"):
        merge_adapter(model)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": 0}, "rank=0"),
        ({"alpha": 2.0}, "set rank=8"),
        ({"kind": "x"}, "kind=x"),
        ({"encoder": "x"}, "encoder=x"),
        ({"num_virtual_tokens": 0}, "num_virtual_tokens=0"),
    ],
)
def test_values_out_of_range_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixConfig(**setting)


def test_what_cannot_go_together_is_refused_before_anything_changes() -> None:
    base = build("bert-cls")
    base.config.chunk_size_feed_forward = 2
    with pytest.raises(ValueError, match="chunk_size_feed_forward=0"):
        wrapped("bert-cls", "unipelt", base)
    base.config.chunk_size_feed_forward = 0
    with pytest.raises(ValueError, match=r"layers=\[5\] must name some"):
        wrapped("bert-cls", "unipelt", base, layers=[5])
    with pytest.raises(ValueError, match="set target_modules"):
        MixConfig(rank=8).default_targets("bloom")
    assert not own_weights(base) and all(w.requires_grad for w in base.parameters())
    model = wrapped("bert-cls", "unipelt")
    with pytest.raises(ValueError, match="gated and ungated mixes cannot share"):
        model.add_adapter("second", MixConfig(task_type="SEQ_CLS", kind="pfeiffer"))
    model = wrapped("bert-cls", "unipelt")
    model.add_adapter("second", MixConfig(task_type="SEQ_CLS", **MIXES["unipelt"]))
    for stack in (module for module in model.modules() if isinstance(module, GatedPrefixLayer)):
        stack.set_adapter(["default", "second"])  # PEFT refuses it first where it has a head for each
    with pytest.raises(ValueError, match="gated prefixes cannot be active together"):
        answer(model, batch("bert-cls", [LONG]))
