"""Turn word lists into tasks whose answers can be worked out: what the embedded writer has to say."""

from __future__ import annotations

from peftkit.generate.mini.families import FAMILIES, Family, understood
from peftkit.generate.mini.wording import instruction

__all__ = ["FAMILIES", "Family", "instruction", "understood"]
