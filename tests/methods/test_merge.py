"""What a method trained, folded into its base, says the same; and IA3's vectors are where its paper has them."""

from __future__ import annotations

import re

import pytest
import torch
from helpers.adapter_models import MODELS, inputs
from helpers.merge_models import FAMILY, MERGES, part, wrapped
from peft import LoraConfig

from peftkit.cli.files import options_of
from peftkit.config import UserError
from peftkit.methods import apply_method, is_mergeable, merge_adapter
from peftkit.models.heads import CLASSIFIERS, mean_pooling_config

BUILDS = {
    **{name: MODELS[name] for name in ("bert", "gpt2", "t5")},
    "mean-pooling": lambda: CLASSIFIERS["bert"][1](mean_pooling_config(MODELS["bert"]().config)),
}


CELLS = [
    pytest.param(method, name, marks=pytest.mark.slow if method in ("qlora", "rslora") else ())  # LoRA's own code
    for method in MERGES
    for name in BUILDS
]


@pytest.mark.parametrize(("method", "name"), CELLS)
def test_merged_it_says_what_it_said(method: str, name: str) -> None:
    if FAMILY.get(name, "encoder") in part(method)["refuses"]:
        with pytest.raises(UserError, match="use method=lora"):
            wrapped(method, BUILDS[name])
        return
    batch = inputs(name)
    model = wrapped(method, BUILDS[name])
    with torch.no_grad():
        with model.disable_adapter():
            base = model(**batch).logits
        before = model(**batch).logits
        merged = merge_adapter(model)
        after = merged(**batch).logits
    size = before.abs().max().clamp(min=1)
    assert float((before - base).abs().max() / size) > 1e-2  # else nothing is shown
    assert float((before - after).abs().max() / size) < 1e-5
    assert type(merged) is type(BUILDS[name]())
    assert merged.state_dict().keys() == BUILDS[name]().state_dict().keys()


def test_every_method_merges_or_says_why_not() -> None:
    for method in sorted(options_of("method").keys() - {"peft"} - {*MERGES}):
        model = wrapped(method, MODELS["bert"])
        if is_mergeable(model):  # it trains the base's own weights
            assert merge_adapter(model) is model, method
        else:
            with pytest.raises(UserError, match="cannot be merged"):
                merge_adapter(model)


# Liu et al. 2022, section 3.3: keys and values of every attention, and the input of a feed-forward's second layer.
# GPT-2 computes queries, keys and values in one module, so its queries are scaled too: the products of queries with keys
# that this can give are those that scaling the keys alone gives.
PLACES = {
    "bert": {r"attention\.self\.key", r"attention\.self\.value", r"layer\.\d+\.output\.dense"},
    "roberta": {r"attention\.self\.key", r"attention\.self\.value", r"layer\.\d+\.output\.dense"},
    "distilbert": {r"attention\.k_lin", r"attention\.v_lin", r"ffn\.lin2"},
    "gpt2": {r"attn\.c_attn", r"mlp\.c_proj"},
    "t5": {r"Attention\.k", r"Attention\.v", r"DenseReluDense\.wo"},
    "llama": {r"self_attn\.k_proj", r"self_attn\.v_proj", r"mlp\.down_proj"},
}
WHOLE = {"t5": 2 * 3 + 2 * 5}  # vectors of two layers: T5's decoder has a cross-attention too


INNER = {r"layer\.\d+\.output\.dense", r"ffn\.lin2", r"mlp\.c_proj", r"DenseReluDense\.wo", r"mlp\.down_proj"}


@pytest.mark.parametrize("name", PLACES)
def test_ia3_scales_keys_values_and_the_inner_feed_forward(name: str) -> None:
    model = wrapped("ia3", MODELS[name])
    found = {n.removesuffix(".ia3_l.default"): w for n, w in model.named_parameters() if "ia3_l" in n}
    assert len(found) == WHOLE.get(name, 2 * len(PLACES[name]))
    seen = set()
    for module, vector in found.items():
        (place,) = (pattern for pattern in PLACES[name] if re.search(rf"{pattern}$", module))
        layer = model.get_submodule(module)
        assert layer.is_feedforward == (place in INNER), module
        assert vector.numel() == (layer.in_features if place in INNER else layer.out_features), module
        seen.add(place)
    assert seen == PLACES[name]


def test_lora_that_does_not_fit_is_not_offered_again() -> None:
    with pytest.raises(UserError, match=r"lora does not fit bert: .*; use method=full"):
        apply_method(MODELS["bert"](), LoraConfig(r=2, target_modules=["c_attn"]))
