"""The pass of LoRA's linear layers in training under autocast, with fewer operations than PEFT's."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn

from peftkit.compat.peft import computes_with_weight


@contextmanager
def fused_lora(model: nn.Module) -> Iterator[None]:
    """Compute W x + b + s B A x (Hu et al. 2021, section 4.1) of LoRA's layers in one function in this block.

    PEFT casts the input twice, and adds and scales outputs and gradients by operations of their own. Here B and its
    gradient are scaled, and the sums are part of the matrix products: each is rounded to autocast's precision once.
    This applies to the training pass of plain layers with one adapter, without dropout, under autocast.
    """
    layers = [each for each in model.modules() if type(each) is Linear and _is_plain(each)]
    for layer in layers:
        layer.forward = partial(_forward, layer, layer.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_plain(layer: Linear) -> bool:
    base, names = layer.get_base_layer(), layer.active_adapters
    return (
        not computes_with_weight(layer)
        and type(base) is nn.Linear
        and not base.weight.requires_grad
        and (base.bias is None or not base.bias.requires_grad)
        and len(names) == 1
        and names[0] in layer.lora_A
        and isinstance(layer.lora_dropout[names[0]], nn.Identity)
        and not layer.lora_bias[names[0]]
    )


def _forward(layer: Linear, other: Any, x: torch.Tensor, *args: Any, **settings: Any) -> Any:
    is_training = layer.training and torch.is_grad_enabled() and torch.is_autocast_enabled(x.device.type)
    if not is_training or args or settings or layer.disable_adapters or layer.merged:
        return other(x, *args, **settings)
    base: Any = layer.get_base_layer()
    name = layer.active_adapters[0]
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return _LoraFunction.apply(x, base.weight, base.bias, a, b, layer.scaling[name])


class _LoraFunction(torch.autograd.Function):
    """x (..., in), W (out, in), b (out,), A (rank, in), B (out, rank) -> (..., out); gradients of x, A and B."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        dtype = torch.get_autocast_dtype(x.device.type)
        with torch.autocast(x.device.type, enabled=False):
            rows, weight = x.to(dtype).reshape(-1, x.shape[-1]), weight.to(dtype)
            a, b = a.to(dtype), (b * scaling).to(dtype)
            reduced = rows @ a.t()
            out = rows @ weight.t() if bias is None else torch.addmm(bias.to(dtype), rows, weight.t())
            out.addmm_(reduced, b.t())
        ctx.save_for_backward(rows, weight, a, b, reduced)
        ctx.scaling, ctx.shape, ctx.dtype = scaling, x.shape, x.dtype
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        rows, weight, a, b, reduced = ctx.saved_tensors
        gradient, of_x = gradient.reshape(-1, gradient.shape[-1]), None
        with torch.autocast(gradient.device.type, enabled=False):
            of_reduced = gradient @ b
            of_b = (gradient.t() @ reduced).float() * ctx.scaling
            of_a = (of_reduced.t() @ rows).float()
            if ctx.needs_input_grad[0]:
                of_x = (gradient @ weight).addmm_(of_reduced, a).to(ctx.dtype).view(ctx.shape)
        return of_x, None, None, of_a, of_b, None
