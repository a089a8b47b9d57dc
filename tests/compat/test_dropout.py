"""Dropout's masks: torch's own distribution, from the seed of torch's generator."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest, chisquare
from torch import nn

from peftkit.compat.dropout import fast_masks

COUNT = 400_003


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("p", [0.0, 1e-5, 0.003, 0.1, 0.5, 0.9, 1 - 1e-5, 1.0])
def test_the_share_of_ones_is_the_probability(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    with fast_masks():
        drawn = torch.empty(COUNT, dtype=dtype).bernoulli_(p)
    ones = int((drawn == 1).sum())
    assert ones + int((drawn == 0).sum()) == COUNT
    assert ones == COUNT * p if p in (0, 1) else binomtest(ones, COUNT, p).pvalue > 1e-3


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    with fast_masks():
        drawn = torch.empty(COUNT // 8, 8).bernoulli_(0.5).long()
    patterns = torch.bincount((drawn << torch.arange(8)).sum(1), minlength=256)
    assert chisquare(patterns.numpy()).pvalue > 1e-3


def test_a_mask_follows_the_generator_and_strides() -> None:
    def mask(generator: torch.Generator | None) -> torch.Tensor:
        return torch.empty(6, 5).t().bernoulli_(0.4, generator=generator)

    with fast_masks():
        torch.manual_seed(1)
        first, second, own = mask(None), mask(None), mask(torch.Generator().manual_seed(1))
        torch.manual_seed(1)
        again = mask(None)
    assert torch.equal(first, again)
    assert torch.equal(first, own)
    assert not torch.equal(first, second)


def test_dropout_and_attention_use_the_masks_and_keep_their_gradients() -> None:
    values = torch.ones(50, 200, requires_grad=True)
    query = torch.randn(2, 2, 5, 4)
    for dropped in (
        lambda: nn.functional.dropout(values, 0.25),
        lambda: nn.functional.scaled_dot_product_attention(query, query, query, dropout_p=0.5),
    ):
        torch.manual_seed(0)
        plain = dropped()
        torch.manual_seed(0)
        with fast_masks():
            assert not torch.equal(dropped(), plain)
        torch.manual_seed(0)
        assert torch.equal(dropped(), plain)  # torch's own again
    with fast_masks():
        out = nn.functional.dropout(values, 0.25)
    out.sum().backward()
    assert torch.equal(values.grad, out.detach())  # 0 or 1 / (1 - 0.25)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])


def test_a_wrong_probability_is_refused() -> None:
    with fast_masks(), pytest.raises(RuntimeError, match="expects p to be in"):
        torch.empty(3).bernoulli_(1.5)
