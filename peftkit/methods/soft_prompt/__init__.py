"""Turn PEFT's closed list of methods into one that has soft prompts right for every head; importing registers them."""

from __future__ import annotations

from aenum import extend_enum
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

NAME = "SOFT_PROMPT"
if NAME not in PeftType.__members__:
    extend_enum(PeftType, NAME, NAME)

from peftkit.methods.soft_prompt.config import SoftPromptConfig  # noqa: E402
from peftkit.methods.soft_prompt.model import SoftPromptModel, fold  # noqa: E402

if PeftType[NAME] not in PEFT_TYPE_TO_CONFIG_MAPPING:
    register_peft_method(name=NAME.lower(), config_cls=SoftPromptConfig, model_cls=SoftPromptModel)

__all__ = ["SoftPromptConfig", "SoftPromptModel", "fold"]
