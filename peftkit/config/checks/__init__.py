"""Validation of a composed config before anything loads."""

from __future__ import annotations

from peftkit.config.checks.combinations import mismatches
from peftkit.config.checks.values import complaints

__all__ = ["complaints", "mismatches"]
