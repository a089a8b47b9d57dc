"""Turn PEFT's closed list of methods into one that holds bottleneck adapters; importing this registers them."""

from __future__ import annotations

from aenum import extend_enum
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

from peftkit.methods.adapter.config import BottleneckConfig
from peftkit.methods.adapter.model import BottleneckModel

NAME = "BOTTLENECK"


def register() -> None:
    """Make get_peft_model and PeftModel.from_pretrained know the method; calling it twice does nothing more."""
    if NAME not in PeftType.__members__:
        extend_enum(PeftType, NAME, NAME)
    if PeftType[NAME] not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=NAME.lower(), config_cls=BottleneckConfig, model_cls=BottleneckModel)


register()

__all__ = ["BottleneckConfig", "BottleneckModel", "register"]
