"""The part of a checkpoint that computes the states of tokens: no head, no pooler, of T5 no decoder."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    PretrainedConfig,
    PreTrainedModel,
    T5EncoderModel,
)

from peftkit.config.families import base_type


class Backbone:
    """Loads the backbone; it takes the place of an Auto class of transformers."""

    @staticmethod
    def from_pretrained(name: str, config: PretrainedConfig | None = None, **arguments: Any) -> PreTrainedModel:
        """Load as `AutoModel` does, without a pooler, which nothing would train: no vector is read from it."""
        config = _base_config(AutoConfig.from_pretrained(name) if config is None else config)
        if config.model_type == "t5":
            return T5EncoderModel.from_pretrained(name, config=config, **arguments)
        arguments |= without_pooler(MODEL_MAPPING[type(config)])
        return AutoModel.from_pretrained(name, config=config, **arguments)  # type: ignore[no-any-return]


def without_pooler(model: type[PreTrainedModel]) -> dict[str, bool]:
    """Return the arguments of a backbone's constructor that leave its pooler out, where it has one."""
    takes = "add_pooling_layer" in inspect.signature(model.__init__).parameters
    return {"add_pooling_layer": False} if takes else {}


def settings_of(config: PretrainedConfig) -> dict[str, Any]:
    """Return the settings of a config, to build that of another class with."""
    return {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}


def _base_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the config of the base below one of peftkit's own classifiers, any other as it is."""
    model_type = base_type(config.model_type)
    return config if model_type == config.model_type else AutoConfig.for_model(model_type, **settings_of(config))
