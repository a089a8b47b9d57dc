"""Turn PEFT's closed list of methods into one that holds mixes of prefix, adapter, LoRA; importing registers them."""

from __future__ import annotations

from aenum import extend_enum
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

NAME = "MIX"
if NAME not in PeftType.__members__:
    extend_enum(PeftType, NAME, NAME)

from peftkit.methods.mix.config import MixConfig  # noqa: E402
from peftkit.methods.mix.model import MixModel  # noqa: E402

if PeftType[NAME] not in PEFT_TYPE_TO_CONFIG_MAPPING:
    register_peft_method(name=NAME.lower(), config_cls=MixConfig, model_cls=MixModel)

__all__ = ["MixConfig", "MixModel"]
