"""Bottleneck adapters as a PEFT tuner; importing this package registers it."""

from __future__ import annotations

from peftkit.compat.peft import register_tuner
from peftkit.methods.adapter.config import BottleneckConfig
from peftkit.methods.adapter.model import BottleneckModel

register_tuner("BOTTLENECK", BottleneckConfig, BottleneckModel)

__all__ = ["BottleneckConfig", "BottleneckModel"]
