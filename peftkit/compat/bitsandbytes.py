"""bitsandbytes, imported without torch's compiler."""

from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial, wraps
from typing import Any

import torch


def import_bitsandbytes() -> None:
    """Import bitsandbytes, whose two compiled functions import torch's compiler when they are first called.

    PEFT imports it even if nothing is quantized, and the compiler is a sixth of all imports of a run.
    """
    compiler = torch.compile
    torch.compile = _compile_when_called  # type: ignore[assignment]
    try:
        with suppress(ImportError):  # it need not be installed
            import bitsandbytes  # noqa: F401
    finally:
        torch.compile = compiler


def _compile_when_called(model: Callable[..., Any] | None = None, **settings: Any) -> Callable[..., Any]:
    if model is None:  # used as a decorator
        return partial(_compile_when_called, **settings)
    compiled = cache(lambda: torch.compile(model, **settings))

    @wraps(model)
    def call(*arguments: Any, **named: Any) -> Any:
        return compiled()(*arguments, **named)

    return call
