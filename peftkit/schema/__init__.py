"""Turn a composed config into a typed run, or into every complaint about it, before anything loads."""

from __future__ import annotations

from peftkit.schema.checks import complaints
from peftkit.schema.mismatches import FILES, ROW_RULES, TEXTS, mismatches
from peftkit.schema.names import key_names, nearest, nearest_key
from peftkit.schema.run import (
    INCIDENTAL,
    SECTIONS,
    EarlyStopping,
    Extend,
    Generate,
    Method,
    Model,
    Run,
    Search,
    Task,
    UserError,
)

__all__ = [
    "FILES",
    "INCIDENTAL",
    "ROW_RULES",
    "SECTIONS",
    "TEXTS",
    "EarlyStopping",
    "Extend",
    "Generate",
    "Method",
    "Model",
    "Run",
    "Search",
    "Task",
    "UserError",
    "complaints",
    "key_names",
    "mismatches",
    "nearest",
    "nearest_key",
]
