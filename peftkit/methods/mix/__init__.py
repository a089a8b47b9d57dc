"""Mixes of prefix, adapter and LoRA as a PEFT tuner; importing this package registers it."""

from __future__ import annotations

from peftkit.compat.peft import register_tuner
from peftkit.methods.mix.config import MixConfig
from peftkit.methods.mix.model import MixModel

register_tuner("MIX", MixConfig, MixModel)

__all__ = ["MixConfig", "MixModel"]
