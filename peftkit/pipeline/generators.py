"""The generator that a config selects: an endpoint, a local model, or the offline generator."""

from __future__ import annotations

import os
from dataclasses import replace

from peftkit.config import Generate, RunConfig, UserError
from peftkit.config.source import Source
from peftkit.generation.generators import Generator


def resolve_generator(config: RunConfig) -> Source:
    """Return the model that generates, without loading it.

    Where it would be the offline GPT-2 or T5, which generate no useful text, the offline generator replaces it in
    Self-Instruct, whose prompts it can answer; it cannot judge.
    """
    settings = config.generate
    if settings.generator == "endpoint":
        return Source("endpoint", str(settings.endpoint_model))
    from peftkit.data import minitasks
    from peftkit.generation.generators import offline
    from peftkit.models.checkpoints import locate
    from peftkit.pipeline.libraries import configure_libraries
    from peftkit.pipeline.sources import find_model

    configure_libraries(config.source)
    model = config.model
    if settings.model is not None:
        model = replace(model, checkpoint=settings.model, revision="main", stand_in="gpt2-mini", keep_layers=None)
    if config.job != "judge" and settings.algorithm == "self_instruct":
        found = locate(model, config.source)
        if found.kind == "offline":
            return Source("offline", offline.NAME, offline.offline_revision(minitasks), found.substituted_for)
    return find_model(model, config.source)


def generator_device(settings: Generate) -> str:
    """Return the device of the generator, for `run_folder.meta`."""
    if settings.generator == "endpoint":
        return "endpoint"
    from peftkit.pipeline.sources import device_name

    return device_name()


def generator_precision(settings: Generate) -> str:
    """Return the precision of the generator, for `run_folder.meta`; that of an endpoint is unknown."""
    return "unknown" if settings.generator == "endpoint" else "quantized" if settings.quantization else "fp32"


def load_generator(settings: Generate, model: Source, has_answered: bool) -> Generator:
    """Return the generator, with its model loaded.

    Args:
        has_answered: whether the endpoint has answered in this run already.
    """
    if settings.generator == "endpoint":
        from peftkit.generation.generators.endpoint import EndpointGenerator

        return EndpointGenerator(settings, os.environ.get(settings.key_env), has_answered)
    from peftkit.data import minitasks
    from peftkit.generation.generators import offline

    if (model.kind, model.name) == ("offline", offline.NAME):
        return offline.OfflineGenerator(minitasks)
    import torch

    from peftkit.generation.generators.local import LocalGenerator
    from peftkit.models.language_model import load_language_model
    from peftkit.models.load import load_tokenizer

    tokenizer = load_tokenizer(model)
    loaded, why_no_head = load_language_model(model, tokenizer, settings.quantization)
    if why_no_head and not loaded.config.is_encoder_decoder:
        raise UserError(
            f"{model.name} cannot generate: {why_no_head}; set generate.model= to a causal or seq2seq checkpoint"
        )
    if torch.cuda.is_available() and not settings.quantization:
        loaded = loaded.to("cuda")  # type: ignore[arg-type]
    return LocalGenerator(loaded, tokenizer, settings.batch, settings.chat)
