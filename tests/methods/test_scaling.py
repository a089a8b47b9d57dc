"""A trained method taken in part is nothing at 0, itself at 1, and half of its change at one half."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.adapter_models import MODELS, inputs
from helpers.merge_models import FAMILY, MERGES, wrapped
from omegaconf import OmegaConf

from peftkit.compat.peft import disabled_adapters
from peftkit.methods.scaling import adapter_pairs, scaled, weight_pairs
from peftkit.paths import conf_folder

SCALED = tuple(name for name in MERGES if name not in ("qlora", "rslora")) + (
    "adapter",
    "adapter_pfeiffer",
    "adapter_parallel",
)
ONE_OF_A_KIND = ("lora", "dora", "ia3", "adapter", "ln_tuning")  # the long tests try all on all
CELLS = [
    pytest.param(method, name, marks=() if name == "bert" or method in ONE_OF_A_KIND else pytest.mark.slow)
    for method in SCALED
    for name in ("bert", "gpt2", "t5")
    if FAMILY.get(name, "encoder") not in OmegaConf.load(conf_folder() / "method" / f"{method}.yaml").refuses
]


def states(model: Any, name: str) -> torch.Tensor:
    """Return what the head reads, as heads train too."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    batch = inputs(name)
    with torch.no_grad():
        if name == "t5":
            return base(**batch).logits
        return getattr(base, base.base_model_prefix)(batch["input_ids"]).last_hidden_state


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize(("method", "name"), CELLS)
def test_at_0_a_method_is_off_and_at_1_as_trained(method: str, name: str) -> None:
    model = wrapped(method, MODELS[name])
    pairs, before, on = adapter_pairs(model), weights(model), states(model, name)
    assert pairs
    with model.disable_adapter():
        off = states(model, name)
    with scaled(pairs, 0):
        torch.testing.assert_close(states(model, name), off, atol=1e-6, rtol=1e-5)
    with scaled(pairs, 1):
        assert torch.equal(states(model, name), on)
    with scaled(pairs, 0.5):
        half = states(model, name)
    assert min((half - end).abs().max() for end in (on, off)) > 1e-3
    assert all(torch.equal(weight, before[key]) for key, weight in model.named_parameters())


def test_half_of_lora_is_half_its_delta_merged_by_hand() -> None:
    model = wrapped("lora", MODELS["bert"])
    with scaled(adapter_pairs(model), 0.5):
        half = states(model, "bert")
    with torch.no_grad():
        layers = [module for module in model.modules() if hasattr(module, "lora_B")]
        for layer in layers:
            delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
            layer.base_layer.weight += 0.5 * delta
    with model.disable_adapter():
        torch.testing.assert_close(states(model, "bert"), half, atol=1e-6, rtol=1e-5)


def test_half_of_ia3_is_half_way_from_one_to_its_vectors() -> None:
    model = wrapped("ia3", MODELS["bert"])
    vector = model.get_base_model().bert.encoder.layer[0].attention.self.key.ia3_l["default"]
    halfway = 1 + 0.5 * (vector.detach().clone() - 1)
    with scaled(adapter_pairs(model), 0.5):
        torch.testing.assert_close(vector, halfway)


def test_half_of_an_adapter_is_half_its_scaling() -> None:
    model = wrapped("adapter", MODELS["gpt2"])
    with scaled(adapter_pairs(model), 0.5):
        half = states(model, "gpt2")
    for module in model.modules():
        if hasattr(module, "bottleneck_scaling"):
            module.bottleneck_scaling["default"] *= 0.5
    torch.testing.assert_close(states(model, "gpt2"), half, atol=1e-6, rtol=1e-5)


def test_the_head_stays_as_it_was_trained() -> None:
    model = wrapped("lora", MODELS["bert"])
    head = model.get_base_model().classifier.modules_to_save["default"].weight
    trained = head.detach().clone()
    with scaled(adapter_pairs(model), 0):
        assert torch.equal(head, trained)
    model = wrapped("prefix", MODELS["bert"])
    with model.disable_adapter(), torch.no_grad():
        base = model(**inputs("bert")).logits
    with disabled_adapters(model), torch.no_grad():
        assert not torch.allclose(model(**inputs("bert")).logits, base)


def test_halfway_between_base_and_tuned_weights_is_their_mean() -> None:
    torch.manual_seed(0)
    base, tuned = MODELS["gpt2"](), MODELS["gpt2"]()
    mean = (base.transformer.wte.weight + tuned.transformer.wte.weight) / 2
    with scaled(weight_pairs(tuned.transformer, base.transformer), 0.5):
        torch.testing.assert_close(tuned.transformer.wte.weight, mean)
    assert not torch.allclose(tuned.transformer.wte.weight, mean)


@pytest.mark.parametrize("method", ["prompt", "prefix", "mam", "unipelt", "linear_probe_mix"])
def test_what_has_no_half_way_is_switched_off_under_its_head(method: str) -> None:
    model = wrapped(method, MODELS["bert"])
    assert adapter_pairs(model) is None
    on = states(model, "bert")
    with model.disable_adapter():
        off = states(model, "bert")
    assert not torch.allclose(on, off, atol=1e-3)
    with disabled_adapters(model):
        assert torch.equal(states(model, "bert"), off)
    assert torch.equal(states(model, "bert"), on)
