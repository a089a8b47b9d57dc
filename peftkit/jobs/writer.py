"""Turn the section generate into a model in this process that writes, and into what a run may use."""

from __future__ import annotations

from peftkit.generate.asking import Ceilings
from peftkit.generate.generators import Generator
from peftkit.schema import Generate, Run, UserError
from peftkit.source import Source

LIMITS = ("max_tokens", "max_completion_tokens")  # of generate.request, over ours


def local_writer(run: Run, settings: Generate, model: Source) -> Generator:
    """Load a language model and its tokenizer.

    Raises:
        UserError: the checkpoint has no head to write with.
    """
    import torch

    from peftkit.generate.generators.local import Local
    from peftkit.models.language import load_language_model
    from peftkit.models.load import load_tokenizer

    tokenizer = load_tokenizer(model)
    loaded, why_no_head = load_language_model(model, tokenizer, settings.quantization)
    if why_no_head and run.model.family == "decoder":
        raise UserError(f"model={run.model.name} cannot write: {why_no_head}; name a checkpoint that can")
    if torch.cuda.is_available() and not settings.quantization:
        loaded = loaded.to("cuda")  # type: ignore[arg-type]
    return Local(loaded, tokenizer, settings.batch, settings.chat)


def ceilings_of(settings: Generate) -> Ceilings:
    longest = max((size for name in LIMITS if isinstance(size := settings.request.get(name), int)), default=0)
    return Ceilings(settings.max_tokens, settings.max_cost, settings.price_in, settings.price_out, longest)
