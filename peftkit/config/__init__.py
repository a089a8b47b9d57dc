"""The typed config of a run, its records of kinds and jobs, and its validation before anything loads."""

from peftkit.config.checks import config_errors, run_errors
from peftkit.config.endings import FILES, TEXT_FILES, TEXTS
from peftkit.config.errors import Refusal, UserError, error_summary, is_text, refusal, refuse
from peftkit.config.job_record import Job
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import KINDS, TaskKind, generates_text, kind_of, label_columns
from peftkit.config.run import (
    NON_RESULT_KEYS,
    SECTIONS,
    EarlyStopping,
    Embed,
    Extend,
    Generate,
    MethodConfig,
    ModelConfig,
    RunConfig,
    Search,
    is_prompted,
)
from peftkit.config.sections import Domains
from peftkit.config.shared import sharing
from peftkit.config.suggestions import nearest
from peftkit.config.task import TaskConfig

__all__ = [
    "FILES", "NON_RESULT_KEYS", "JOBS", "KINDS", "SECTIONS", "TEXTS", "TEXT_FILES", "Domains", "EarlyStopping",
    "Embed", "Extend", "Generate", "Job", "MethodConfig", "ModelConfig", "RunConfig", "Search", "TaskConfig",
    "TaskKind", "Refusal", "UserError", "config_errors", "error_summary", "generates_text", "is_prompted", "is_text",
    "kind_of", "label_columns", "nearest", "refusal", "refuse", "run_errors", "sharing",
]  # fmt: skip
