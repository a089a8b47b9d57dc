"""Turn the choice of who writes into a generator: a server, a model in this process, or what stands in for one."""

from __future__ import annotations

import os
from dataclasses import replace

from peftkit.config import Generate, RunConfig, UserError
from peftkit.config.source import Source
from peftkit.generation.generators import Generator


def resolve_generator(run: RunConfig, settings: Generate) -> Source:
    """Decide which model writes; a local one is found, not loaded.

    Where only the offline GPT-2 or T5 is at hand, which write nothing of use, the offline writer takes their place
    in Self-Instruct, for which it has its words; it is no judge.
    """
    if settings.generator == "endpoint":
        return Source("endpoint", str(settings.endpoint_model))
    from peftkit.data import minitasks
    from peftkit.generation.generators import offline
    from peftkit.models.checkpoints import locate
    from peftkit.pipeline.libraries import configure_libraries
    from peftkit.pipeline.sources import find_model

    configure_libraries(run.source)
    model = run.model
    if settings.model is not None:
        model = replace(model, checkpoint=settings.model, revision="main", stand_in="gpt2-mini", keep_layers=None)
    is_asked_for_tasks = run.job != "judge" and settings.algorithm == "self_instruct"
    if is_asked_for_tasks and (found := locate(model, run.source)).kind == "offline":
        return Source("offline", offline.NAME, offline.offline_revision(minitasks), found.substituted_for)
    return find_model(model, run.source)


def generator_device(settings: Generate) -> str:
    """Return the device that writes, for `record.meta`."""
    if settings.generator == "endpoint":
        return "endpoint"
    from peftkit.pipeline.sources import device_name

    return device_name()


def generator_precision(settings: Generate) -> str:
    """Return the precision of what writes, for `record.meta`; a server does not tell its own."""
    return "unknown" if settings.generator == "endpoint" else "quantized" if settings.quantization else "fp32"


def load_generator(settings: Generate, model: Source, has_answered: bool) -> Generator:
    """Return what replies.

    Args:
        has_answered: whether this run has replies of the endpoint already.
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
        raise UserError(f"{model.name} cannot write: {why_no_head}; name a checkpoint that can")
    if torch.cuda.is_available() and not settings.quantization:
        loaded = loaded.to("cuda")  # type: ignore[arg-type]
    return LocalGenerator(loaded, tokenizer, settings.batch, settings.chat)
