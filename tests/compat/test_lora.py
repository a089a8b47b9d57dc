"""The fused pass of LoRA's layers: outputs and gradients of PEFT's own, as near to those in fp32."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from peftkit.compat.lora import fused_lora

SIZES = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


class Layers(nn.Module):
    """Two linear layers, one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 40), nn.Linear(40, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


def lora(model: nn.Module, **settings: Any) -> Any:
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=12, init_lora_weights=False, **settings)).train()


def outputs_and_gradients(model: Any, x: torch.Tensor, dtype: torch.dtype | None, block: Any) -> list[torch.Tensor]:
    model.zero_grad()
    x = x.clone().requires_grad_(True)
    with block(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        out = model(x)
        (out.float() ** 2).sum().backward()
    trained = [weight.grad for weight in model.parameters() if weight.requires_grad]
    return [out.float().detach(), x.grad, *trained]


def test_outputs_and_gradients_are_as_near_to_fp32_as_those_of_peft() -> None:
    torch.manual_seed(0)
    model, errors = lora(Layers(), target_modules=["first", "second"]), []
    for x in torch.randn(20, 3, 50, 24):
        exact = outputs_and_gradients(model, x, None, nullcontext)
        plain = outputs_and_gradients(model, x, torch.bfloat16, nullcontext)
        fused = outputs_and_gradients(model, x, torch.bfloat16, partial(fused_lora, model))
        assert len(exact) == 6  # the output, the input, and A and B of two layers
        assert [(each.shape, each.dtype) for each in fused] == [(each.shape, each.dtype) for each in plain]
        assert not any(map(torch.equal, plain, fused))
        errors.append(
            [
                [(each - right).norm() / right.norm() for each, right in zip(found, exact, strict=True)]
                for found in (plain, fused)
            ]
        )
    theirs, ours = torch.tensor(errors).mean(0)
    assert (ours < 1.1 * theirs).all() and (theirs < 0.05).all(), (ours, theirs)


def test_in_fp32_the_function_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = lora(Layers(), target_modules=["first", "second"]), torch.randn(5, 24)
    exact = outputs_and_gradients(model, x, None, nullcontext)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.float32)
    fused = outputs_and_gradients(model, x, torch.bfloat16, partial(fused_lora, model))
    for right, ours in zip(exact, fused, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "fuses"),
    [
        ({}, True),
        ({"use_rslora": True}, True),
        ({"use_dora": True}, False),
        ({"lora_dropout": 0.1}, False),
        ({"bias": "all"}, False),
        ({"lora_bias": True}, False),
    ],
)
def test_only_plain_layers_are_fused(settings: dict[str, Any], fuses: bool) -> None:
    model = lora(Layers(), target_modules=["first"], **settings)
    layer = model.base_model.model.first
    with fused_lora(model):
        assert ("forward" in vars(layer)) is fuses
    assert "forward" not in vars(layer)


def test_scoring_disabled_and_merged_layers_are_those_of_peft() -> None:
    torch.manual_seed(0)
    model = lora(BertForSequenceClassification(BertConfig(**SIZES)), task_type="SEQ_CLS", target_modules="all-linear")
    model.eval()
    ids = torch.arange(5, 15).view(2, 5)

    def logits(block: Any) -> list[torch.Tensor]:
        found = []
        with block(), torch.autocast("cpu", torch.bfloat16):
            found.append(model(input_ids=ids).logits)
            with model.disable_adapter():
                found.append(model(input_ids=ids).logits)
            model.merge_adapter()
            found.append(model(input_ids=ids).logits)
            model.unmerge_adapter()
        return found

    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    plain = logits(nullcontext)
    model.load_state_dict(weights)
    fused = logits(partial(fused_lora, model))
    assert all(torch.equal(first, second) for first, second in zip(plain, fused, strict=True))
