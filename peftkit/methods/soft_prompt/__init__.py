"""Soft prompts that work with every head, as a PEFT tuner; importing this package registers it."""

from __future__ import annotations

from peftkit.compat.peft import register_tuner
from peftkit.methods.soft_prompt.config import SoftPromptConfig
from peftkit.methods.soft_prompt.model import SoftPromptModel, fold

register_tuner("SOFT_PROMPT", SoftPromptConfig, SoftPromptModel)

__all__ = ["SoftPromptConfig", "SoftPromptModel", "fold"]
