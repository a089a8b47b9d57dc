"""Turn a composed config into a typed run, or into every complaint about it, before anything loads."""

from __future__ import annotations

from peftkit.schema.checks import complaints
from peftkit.schema.mismatches import mismatches
from peftkit.schema.names import holds_keys, key_names, nearest, nearest_key, takes_list
from peftkit.schema.places import FILES, ROW_RULES, TEXT_FILES, TEXTS
from peftkit.schema.run import (
    INCIDENTAL,
    SECTIONS,
    EarlyStopping,
    Embed,
    Extend,
    Generate,
    Method,
    Model,
    Run,
    Search,
    Task,
    UserError,
    asks,
    reason,
    writes,
)

__all__ = [
    "FILES",
    "INCIDENTAL",
    "ROW_RULES",
    "SECTIONS",
    "TEXTS",
    "TEXT_FILES",
    "EarlyStopping",
    "Embed",
    "Extend",
    "Generate",
    "Method",
    "Model",
    "Run",
    "Search",
    "Task",
    "UserError",
    "asks",
    "complaints",
    "holds_keys",
    "key_names",
    "mismatches",
    "nearest",
    "nearest_key",
    "reason",
    "takes_list",
    "writes",
]
