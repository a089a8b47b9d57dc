"""Turn a checkpoint into what a text runs through and no more: no head, no pooler above it, no decoder beside it."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, T5EncoderModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING


class Backbone:
    """What loads it, where heads have an Auto class."""

    @staticmethod
    def from_pretrained(name: str, config: PretrainedConfig | None = None, **arguments: Any) -> Any:
        """Load as `AutoModel` does; a pooler would be trained by nothing, as no vector comes from it."""
        config = _plain(AutoConfig.from_pretrained(name) if config is None else config)
        if config.model_type == "t5":
            return T5EncoderModel.from_pretrained(name, config=config, **arguments)
        kind: type[PreTrainedModel] = MODEL_MAPPING[type(config)]
        if "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
            arguments["add_pooling_layer"] = False
        return AutoModel.from_pretrained(name, config=config, **arguments)


def _plain(config: PretrainedConfig) -> PretrainedConfig:
    """Return the config of the family that one of our own classifiers belongs to, any other as it is."""
    family = {"t5_encoder": "t5"}.get(config.model_type, config.model_type.removeprefix("mean_pooling_"))
    if family == config.model_type:
        return config
    settings = {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}
    return AutoConfig.for_model(family, **settings)
