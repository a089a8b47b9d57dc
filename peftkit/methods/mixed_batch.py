"""Turn a name for each row of a batch into calls that know them: PEFT's `adapter_names`, for our own tuners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn


@contextmanager
def named_rows(
    tuner: BaseTuner, kinds: type[nn.Module] | tuple[type[nn.Module], ...], names: Sequence[str] | None
) -> Iterator[None]:
    """Let each row of the batch have the adapter of its name; without names change nothing.

    The tuner's modules of these kinds are given the names at every call; those that hook a stack, and so are not
    called themselves, find them in their attribute `row_names`.

    Raises:
        ValueError: the model trains, or a name is of no adapter; the message says what to do.
    """
    if names is None:
        yield
        return
    _check(tuner, names)
    handles = [
        module.register_forward_pre_hook(partial(_add_names, names=list(names)), with_kwargs=True)
        for module in tuner.modules()
        if isinstance(module, kinds)
    ]
    hooking: list[Any] = [module for module in tuner.modules() if hasattr(module, "row_names")]
    try:
        for module in hooking:
            module.row_names = list(names)
        yield
    finally:
        for module in hooking:
            module.row_names = None
        for handle in handles:
            handle.remove()


def repeats(rows: int, names: Sequence[str]) -> int:
    """Return how often each name stands for a row: beam search repeats every row, and so its name.

    Raises:
        ValueError: there is no whole number of rows a name.
    """
    if rows % len(names):
        raise ValueError(f"adapter_names has {len(names)} names for a batch of {rows}; give one a row")
    return rows // len(names)


def _add_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    times = repeats(len(args[0]), names)
    return args, {**kwargs, "adapter_names": [name for name in names for _ in range(times)]}


def _check(tuner: BaseTuner, names: Sequence[str]) -> None:
    if tuner.training:
        raise ValueError("adapter_names mixes adapters for inference alone; call model.eval() first")
    unknown = sorted(set(names) - set(tuner.peft_config) - {"__base__"})
    if unknown:
        raise ValueError(f"adapter_names has {', '.join(unknown)}; loaded are {', '.join(tuner.peft_config)}")
