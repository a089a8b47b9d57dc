"""Turn a model into one with few trainable weights."""

from __future__ import annotations

from peftkit.methods.own import BitFit, Full, LinearProbe
from peftkit.methods.soft_prompt import fold
from peftkit.methods.wrap import Parameters, count_parameters, is_mergeable, load_adapter, merge, wrap

__all__ = [
    "BitFit",
    "Full",
    "LinearProbe",
    "Parameters",
    "count_parameters",
    "fold",
    "is_mergeable",
    "load_adapter",
    "merge",
    "wrap",
]
