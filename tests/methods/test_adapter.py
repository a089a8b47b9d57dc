"""Bottleneck adapters live PEFT's whole life on every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.adapter_models import MODELS, WIDTH, bert, inputs
from peft import PeftModel, get_peft_model

from peftkit.methods.adapter import BottleneckConfig

PLACES = {"bert": 4, "roberta": 4, "distilbert": 4, "gpt2": 4, "llama": 4, "t5": 10}


def wrapped(name: str, **settings: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    base = MODELS[name]().eval()
    task = "SEQ_2_SEQ_LM" if name == "t5" else "SEQ_CLS"
    return base, get_peft_model(base, BottleneckConfig(task_type=task, **settings)).eval()


@pytest.mark.parametrize("name", MODELS)
def test_fresh_adapter_equals_its_base(name: str) -> None:
    base = MODELS[name]().eval()
    before = base(**inputs(name)).logits
    task = "SEQ_2_SEQ_LM" if name == "t5" else "SEQ_CLS"
    model = get_peft_model(base, BottleneckConfig(task_type=task)).eval()
    # not to the bit: a kernel may add up in another order where memory lies otherwise
    torch.testing.assert_close(model(**inputs(name)).logits, before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_every_place_gets_one_adapter_of_the_papers_size(name: str) -> None:
    _, model = wrapped(name, bottleneck_dim=4)
    trained = sum(w.numel() for n, w in model.named_parameters() if "bottleneck_" in n and w.requires_grad)
    assert trained == PLACES[name] * (2 * 4 * WIDTH + 4 + WIDTH)  # Houlsby et al. 2019, section 2.1: 2md + d + m


@pytest.mark.parametrize("name", MODELS)
def test_trainable_weights_move_and_frozen_ones_do_not(name: str) -> None:
    _, model = wrapped(name)
    before = {n: w.detach().clone() for n, w in model.named_parameters()}
    optimizer = torch.optim.Adam([w for w in model.parameters() if w.requires_grad], lr=0.1)
    for _ in range(2):  # the up projection is zero, so the down projection has no gradient before the second step
        optimizer.zero_grad()
        model(**inputs(name)).loss.backward()
        optimizer.step()
    for n, weight in model.named_parameters():
        assert torch.equal(weight, before[n]) != weight.requires_grad, n


@pytest.mark.parametrize("name", MODELS)
def test_saved_adapter_loads_with_plain_peft(name: str, tmp_path: Path) -> None:
    _base, model = wrapped(name)
    for _n, weight in model.named_parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.1)
    expected = model(**inputs(name)).logits
    model.save_pretrained(str(tmp_path))
    torch.manual_seed(0)
    again = PeftModel.from_pretrained(MODELS[name](), str(tmp_path)).eval()
    assert torch.equal(again(**inputs(name)).logits, expected)


def test_disabled_adapter_equals_the_base_and_a_second_one_is_its_own() -> None:
    _, model = wrapped("bert")
    plain = model(**inputs("bert")).logits
    for n, weight in model.named_parameters():
        if "bottleneck_up" in n:
            torch.nn.init.normal_(weight, std=0.5)
    changed = model(**inputs("bert")).logits
    with model.disable_adapter():
        assert torch.equal(model(**inputs("bert")).logits, plain)
    model.add_adapter("second", BottleneckConfig(task_type="SEQ_CLS"))
    model.set_adapter("second")
    assert not torch.equal(model(**inputs("bert")).logits, changed)
    model.set_adapter("default")
    assert torch.equal(model(**inputs("bert")).logits, changed)
    model.delete_adapter("second")
    assert not any("second" in n for n, _ in model.named_parameters())


KINDS = ["houlsby", "pfeiffer", "parallel"]


def strong(model: Any, seed: int = 0) -> Any:
    """Give every adapter weight a random value, so that it shows."""
    torch.manual_seed(seed)
    for n, weight in model.named_parameters():
        if "bottleneck_" in n:
            torch.nn.init.normal_(weight, std=0.3)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_every_kind_lives_the_whole_peft_life(name: str, kind: str, tmp_path: Path) -> None:
    _, model = wrapped(name, kind=kind)
    batch = inputs(name)
    with model.disable_adapter():
        plain = model(**batch).logits
    torch.testing.assert_close(model(**batch).logits, plain, rtol=0, atol=1e-5)
    task = model.peft_config["default"].task_type
    model.add_adapter("second", BottleneckConfig(kind=kind, reduction_factor=4, task_type=task))
    assert not any(w.requires_grad for n, w in model.named_parameters() if ".second." in n)
    model.set_adapter("second")
    assert all(w.requires_grad == (".second" in n) for n, w in model.named_parameters() if "bottleneck_" in n)
    second = strong(model)(**batch).logits
    model.set_adapter("default")
    first = model(**batch).logits
    assert not torch.allclose(first, second, atol=1e-4) and not torch.allclose(first, plain, atol=1e-4)
    model.save_pretrained(str(tmp_path))
    torch.manual_seed(0)
    again = PeftModel.from_pretrained(MODELS[name](), str(tmp_path)).eval()
    again.load_adapter(str(tmp_path / "second"), "second")
    torch.testing.assert_close(again(**batch).logits, first)
    again.set_adapter("second")
    torch.testing.assert_close(again(**batch).logits, second)
    assert again.peft_config["second"].reduction_factor == 4
    model.delete_adapter("default")
    assert model.active_adapters == ["second"]
    torch.testing.assert_close(model(**batch).logits, second)
    unloaded = model.unload()
    assert not [n for n, _ in unloaded.named_modules() if "bottleneck_" in n or "base_layer" in n]
    assert not [n for n, module in unloaded.named_modules() if module._forward_pre_hooks]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted({*MODELS} - {"roberta"}))  # PEFT cannot mix heads of more than one layer
def test_each_row_of_a_batch_may_have_its_own_adapter(name: str, kind: str) -> None:
    _, model = wrapped(name, kind=kind)
    task = model.peft_config["default"].task_type
    model.add_adapter("second", BottleneckConfig(kind=kind, task_type=task))
    strong(model)
    batch = {key: rows[[0, 1, 0]] for key, rows in inputs(name).items()}
    rows = ["second", "__base__", "default"]
    mixed = model(**batch, adapter_names=rows).logits
    for row, wanted in enumerate(rows):
        expected = model(**batch, adapter_names=[wanted] * 3).logits[row]
        torch.testing.assert_close(mixed[row], expected, rtol=0, atol=1e-5)
    assert not torch.allclose(mixed[0], mixed[2], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_gradient_checkpointing_changes_no_gradient(name: str, kind: str) -> None:
    def gradients(checkpoint: bool) -> dict[str, Any]:
        _, model = wrapped(name, kind=kind)
        strong(model).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpoint:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**inputs(name)).loss.backward()
        return {n: w.grad for n, w in model.named_parameters() if "bottleneck_" in n}

    plain, saved = gradients(False), gradients(True)
    for n, gradient in plain.items():
        torch.testing.assert_close(saved[n], gradient)


def test_chosen_layers_alone_get_adapters() -> None:
    _, model = wrapped("t5", layers=[1])
    assert {n.split("block.")[1][0] for n, _ in model.named_parameters() if "bottleneck_" in n} == {"1"}
    with pytest.raises(ValueError, match=r"must name some of the model's \[0, 1\]"):
        wrapped("bert", layers=[5])


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_over_a_4_bit_base_train(kind: str) -> None:
    import bitsandbytes as bnb

    torch.manual_seed(0)
    base = bert()
    for layer in base.bert.encoder.layer:
        for parent in (layer.output, layer.attention.output):
            dense = parent.dense
            parent.dense = bnb.nn.Linear4bit(dense.in_features, dense.out_features, quant_type="nf4")
            parent.dense.load_state_dict(dense.state_dict())
            parent.dense.to("cpu")
    model = get_peft_model(base, BottleneckConfig(kind=kind, task_type="SEQ_CLS"))
    strong(model)(**inputs("bert")).loss.backward()
    assert all(w.grad is not None and w.grad.any() for n, w in model.named_parameters() if "bottleneck_up" in n)


def test_two_kinds_cannot_share_a_model() -> None:
    _, model = wrapped("gpt2", kind="pfeiffer")
    with pytest.raises(ValueError, match="houlsby and pfeiffer adapters cannot share"):
        model.add_adapter("second", BottleneckConfig(kind="houlsby", task_type="SEQ_CLS"))


@pytest.mark.parametrize(
    "setting", [{"kind": "x"}, {"activation": "x"}, {"bottleneck_dim": 0}, {"dropout": 1.0}, {"init_std": 0.0}]
)
def test_values_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        BottleneckConfig(**setting)


def test_merging_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be merged"):
        wrapped("bert")[1].merge_and_unload()


def test_unknown_family_names_what_to_set() -> None:
    with pytest.raises(ValueError, match="set target_modules"):
        BottleneckConfig().default_targets("bloom")
