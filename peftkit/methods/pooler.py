"""The pooler of a backbone, applied to states that a tuner changed."""

from __future__ import annotations

from typing import Any

import torch


def pooled(stack: Any, states: torch.Tensor) -> torch.Tensor:
    """Apply a backbone's own pooler to states (batch, tokens, width); ALBERT's consists of two modules."""
    if hasattr(stack, "pooler_activation"):
        return stack.pooler_activation(stack.pooler(states[:, 0]))  # type: ignore[no-any-return]
    return stack.pooler(states)  # type: ignore[no-any-return]
