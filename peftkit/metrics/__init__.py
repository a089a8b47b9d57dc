"""Metrics: one decorated function each, in any module of this folder."""

from importlib import import_module
from pkgutil import iter_modules

from peftkit.metrics.registry import (
    METRICS,
    RECORDED,
    Metric,
    as_evaluate,
    check_own_metrics,
    find_metric,
    import_own_metrics,
    score,
    split_suffix,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "METRICS", "RECORDED", "Metric", "as_evaluate", "check_own_metrics", "find_metric", "import_own_metrics", "score",
    "split_suffix",
]  # fmt: skip
