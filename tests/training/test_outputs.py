"""Scores are computed from a model's outputs, exactly and in little memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from peftkit.training.outputs import OutputReader


class Largest(TorchDispatchMode):
    """Keep the number of bytes of the largest tensor that is made."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not out._is_view():
            self.bytes = max(self.bytes, out.numel() * out.element_size())
        return out


def model_and_batch(family: str, dtype: torch.dtype) -> tuple[Any, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model: Any
    if family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=4000, n_embd=16, n_layer=1, n_head=2, n_positions=300))
    else:
        config = T5Config(vocab_size=4000, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        config.decoder_start_token_id = 0
        model = T5ForConditionalGeneration(config)
    ids = torch.randint(1, 4000, (5, 250))
    labels = ids.clone()
    labels[:, :40] = labels[2, 100:] = labels[4] = -100
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight))
    return model.to(dtype).eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_likelihoods_are_those_of_the_whole_softmax(family: str, dtype: torch.dtype) -> None:
    model, batch = model_and_batch(family, dtype)
    with torch.no_grad():
        found = OutputReader("likelihoods")(model, batch)
        logits = model(**batch).logits.float().double().log_softmax(dim=-1)
    shift = family == "gpt2"
    expected = torch.zeros(found.shape, dtype=torch.float64)
    for row, label in (batch["labels"] >= 0).nonzero().tolist():
        if label >= shift:
            expected[row, label] = logits[row, label - shift, batch["labels"][row, label]]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_likelihoods_need_no_second_copy_of_the_logits(family: str) -> None:
    model, batch = model_and_batch(family, torch.bfloat16)
    with torch.no_grad():
        with Largest() as alone:
            model(**{name: value for name, value in batch.items() if family == "t5" or name != "labels"})
        with Largest() as scored:
            OutputReader("likelihoods")(model, batch)
    assert scored.bytes == alone.bytes == 5 * 250 * 4000 * 2
