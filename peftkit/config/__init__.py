"""Turn a composed config into a typed run, or into every complaint about it, before anything loads."""

from __future__ import annotations

from peftkit.config.checks.combinations import mismatches
from peftkit.config.checks.paths import FILES, ROW_RULES, TEXT_FILES, TEXTS
from peftkit.config.checks.values import complaints
from peftkit.config.errors import UserError, error_summary
from peftkit.config.jobs import JOBS, Job
from peftkit.config.kinds import KINDS, TaskKind, generates_text, kind_of
from peftkit.config.run import (
    INCIDENTAL,
    SECTIONS,
    EarlyStopping,
    Embed,
    Extend,
    Generate,
    MethodConfig,
    ModelConfig,
    RunConfig,
    Search,
    TaskConfig,
    is_prompted,
)
from peftkit.config.suggestions import holds_keys, key_names, nearest, nearest_key, takes_list

__all__ = [
    "FILES",
    "INCIDENTAL",
    "JOBS",
    "KINDS",
    "ROW_RULES",
    "SECTIONS",
    "TEXTS",
    "TEXT_FILES",
    "EarlyStopping",
    "Embed",
    "Extend",
    "Generate",
    "Job",
    "MethodConfig",
    "ModelConfig",
    "RunConfig",
    "Search",
    "TaskConfig",
    "TaskKind",
    "UserError",
    "kind_of",
    "is_prompted",
    "complaints",
    "holds_keys",
    "key_names",
    "mismatches",
    "nearest",
    "nearest_key",
    "error_summary",
    "takes_list",
    "generates_text",
]
