"""Turn the choice of who writes into a generator: a server, a model in this process, or what stands in for one."""

from __future__ import annotations

import os
from dataclasses import replace

from peftkit.generate.generators import Generator
from peftkit.schema import Generate, Run, UserError
from peftkit.source import Source


def find_writer(run: Run, settings: Generate) -> Source:
    """Decide which model writes; a local one is found, not loaded.

    Where only the embedded GPT-2 or T5 is at hand, which write nothing of use, the embedded writer takes their place
    in Self-Instruct, for which it has its words; it is no judge.
    """
    if settings.generator == "endpoint":
        return Source("endpoint", str(settings.served_model))
    from peftkit.data import minitasks
    from peftkit.generate.generators import embedded
    from peftkit.jobs.prepare import find_model, settle
    from peftkit.models.load import locate

    settle(run.source)
    model = run.model
    if settings.model is not None:
        model = replace(model, checkpoint=settings.model, revision="main", stand_in="gpt2-mini", layers=None)
    is_asked_for_tasks = run.job != "judge" and settings.algorithm == "self_instruct"
    if is_asked_for_tasks and (found := locate(model, run.source)).kind == "embedded":
        return Source("embedded", embedded.NAME, embedded.revision(minitasks), found.substituted_for)
    return find_model(model, run.source)


def written_on(settings: Generate) -> str:
    """Return the device that writes, for `record.meta`."""
    if settings.generator == "endpoint":
        return "endpoint"
    from peftkit.jobs.prepare import device_name

    return device_name()


def written_in(settings: Generate) -> str:
    """Return the precision of what writes, for `record.meta`; a server does not tell its own."""
    return "unknown" if settings.generator == "endpoint" else "quantized" if settings.quantization else "fp32"


def load_writer(settings: Generate, model: Source, has_answered: bool) -> Generator:
    """Return what replies.

    Args:
        has_answered: whether this run has replies of the endpoint already.
    """
    if settings.generator == "endpoint":
        from peftkit.generate.generators.endpoint import Endpoint

        return Endpoint(settings, os.environ.get(settings.key_env), has_answered)
    from peftkit.data import minitasks
    from peftkit.generate.generators import embedded

    if (model.kind, model.name) == ("embedded", embedded.NAME):
        return embedded.Embedded(minitasks)
    import torch

    from peftkit.generate.generators.local import Local
    from peftkit.models.language import load_language_model
    from peftkit.models.load import load_tokenizer

    tokenizer = load_tokenizer(model)
    loaded, why_no_head = load_language_model(model, tokenizer, settings.quantization)
    if why_no_head and not loaded.config.is_encoder_decoder:
        raise UserError(f"{model.name} cannot write: {why_no_head}; name a checkpoint that can")
    if torch.cuda.is_available() and not settings.quantization:
        loaded = loaded.to("cuda")  # type: ignore[arg-type]
    return Local(loaded, tokenizer, settings.batch, settings.chat)
