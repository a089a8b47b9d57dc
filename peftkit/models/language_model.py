"""A checkpoint's pretrained language model head, also over the states of a tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from peftkit.config.source import Source
from peftkit.models.checkpoints import checkpoint_path, hub_arguments
from peftkit.models.load import architecture_of, auto_class, read_checkpoint


def load_language_model(
    source: Source, tokenizer: PreTrainedTokenizerBase, quantization: dict[str, Any] | None = None
) -> tuple[PreTrainedModel, str | None]:
    """Load a checkpoint with the language model head that it was pretrained with, in fp32, or its base in 4 or 8 bits.

    Returns:
        The model, and the reason why its loss is meaningless, None if it is not.
    """
    config = AutoConfig.from_pretrained(checkpoint_path(source), **hub_arguments(source))
    auto = auto_class(architecture_of(config), "language_modeling")
    model, missing = read_checkpoint(auto, source, config, quantization)
    # a head that is not in the checkpoint is newly initialized
    fresh = sorted(name for name in missing if not name.startswith(f"{model.base_model_prefix}."))
    if fresh:
        return model.eval(), f"{source.name} has no language model head ({fresh[0]} is not in the checkpoint)"
    if architecture_of(config) == "encoder" and tokenizer.mask_token_id is None:
        return model.eval(), f"the tokenizer of {source.name} has no mask token"
    if architecture_of(config) == "seq2seq" and "<extra_id_0>" not in tokenizer.get_vocab():
        return model.eval(), f"the tokenizer of {source.name} has no sentinels for corrupted spans"
    return model.eval(), None


def shared_parts(language_model: PreTrainedModel, tuned: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    """Return the common part of a language model and a model tuned from the same checkpoint, of each.

    The whole model where both have one class; the backbone under different heads; T5's encoder where only that was
    tuned.
    """
    if type(tuned) is type(language_model):
        return language_model, tuned
    if language_model.config.is_encoder_decoder:
        return language_model.encoder, tuned.base_model.encoder  # type: ignore[return-value]
    return language_model.base_model, tuned.base_model


def with_tuned_part(language_model: PreTrainedModel, tuned: PreTrainedModel) -> PreTrainedModel:
    """Return the language model over the tuned model's layers, which both share from now on.

    A head that is tied to the embeddings stays tied.
    """
    base, tuned_base = shared_parts(language_model, tuned)
    if base is language_model:
        return tuned
    output = language_model.get_output_embeddings()
    is_tied = output is not None and output.weight is language_model.get_input_embeddings().weight
    name = next(name for name, module in language_model.named_children() if module is base)
    setattr(language_model, name, tuned_base)
    if is_tied:
        output.weight = language_model.get_input_embeddings().weight  # type: ignore[union-attr]
    return language_model


@torch.no_grad()
def token_states(model: PreTrainedModel, blocks: Sequence[list[int]], batch_size: int = 8) -> torch.Tensor:
    """Return the last hidden state of each token of blocks of one length (blocks, tokens, width), of T5 its encoder's.

    The states are on the CPU, in fp32.
    """
    stack: Any = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    batches = [blocks[first : first + batch_size] for first in range(0, len(blocks), batch_size)]
    states = [stack(input_ids=torch.tensor(batch, device=model.device))[0].float().cpu() for batch in batches]
    return torch.cat(states)


def state_drift(before: torch.Tensor, after: torch.Tensor) -> float:
    """Return the mean over tokens of 1 - cosine between two states of each (..., width): 0 where they are parallel."""
    cosines = nn.functional.cosine_similarity(before.double(), after.double(), dim=-1)
    return float((1 - cosines).clamp(min=0).mean())  # the cosine of equal states may exceed 1 in the last digit
