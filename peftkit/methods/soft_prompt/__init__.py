"""Soft prompts that work with every head, as a PEFT tuner; importing this package registers it."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from peftkit.compat.peft import register_tuner
from peftkit.compat.tuner import HookedTuner
from peftkit.methods.soft_prompt.layer import SoftPromptConfig, SoftPromptLayer
from peftkit.methods.soft_prompt.prefix import PrefixLayer
from peftkit.methods.soft_prompt.prompt import PromptLayer


class SoftPromptModel(HookedTuner):
    """PEFT's tuner for `SoftPromptConfig`."""

    prefix = "soft_prompt_"
    merge_error = "a soft prompt does not change the base's weights and cannot be merged"

    def attach(self, model: nn.Module, adapter_name: str, config: Any, is_loaded: bool) -> list[nn.Module]:
        if len({other.kind == "prefix" for other in self.peft_config.values()}) > 1:  # type: ignore[union-attr, attr-defined]
            raise ValueError("prompts and prefixes cannot share a model; load them over separate bases")
        return add_prompts(model, adapter_name, config, is_loaded)


def add_prompts(model: Any, adapter_name: str, config: SoftPromptConfig, is_loaded: bool = False) -> list[Any]:
    """Add a new prompt to the stacks that the kind modifies, and return them.

    `is_loaded`: saved vectors will replace the initial ones, which then need no initialization from tokens.
    """
    encoder, *decoder = stacks(model)
    is_prefix = config.kind == "prefix"
    modified: list[Any] = [encoder, *decoder] if is_prefix else [encoder]
    for stack in modified:
        if not hasattr(stack, "soft_prompt"):
            stack.soft_prompt = PrefixLayer(stack) if is_prefix else PromptLayer(stack, *decoder)
    initial = [] if config.init == "random" or is_loaded else _initial_vectors(model, config, modified)
    for number, stack in enumerate(modified):
        input_dim = int(stack.get_input_embeddings().weight.shape[1])
        size = (config.num_virtual_tokens, stack.soft_prompt.vector_dim if is_prefix else input_dim)
        vectors = initial[number] if initial else torch.randn(size) * config.init_std
        stack.soft_prompt.add(adapter_name, config, input_dim, vectors)
        stack.soft_prompt.to(next(model.parameters()).device)
    return modified


def stacks(model: Any) -> list[Any]:
    """Return a model's backbone, or its encoder and decoder where it has them, as T5 and BART.

    OPT's language model calls the decoder in its backbone, and not the backbone.
    """
    parts = {
        module: name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, PreTrainedModel)
    }
    found = [part for name in ("encoder", "decoder") for part, each in parts.items() if each == name]
    return found or [getattr(model, model.base_model_prefix, model)]


def replace_prompt_encoders(model: nn.Module) -> None:
    """Replace every prompt encoder by its output, at the end of training: only the vectors are saved."""
    for module in model.modules():
        if isinstance(module, SoftPromptLayer):
            module.replace_encoders()
    for config in getattr(model, "peft_config", {}).values():
        if hasattr(config, "encoder"):  # a soft prompt's, or that of a mix
            config.encoder = None


@torch.no_grad()
def _initial_vectors(model: Any, config: SoftPromptConfig, modified: list[Any]) -> list[torch.Tensor]:
    """Return the initial vectors of each stack, from tokens."""
    embeddings, length = modified[0].get_input_embeddings(), config.num_virtual_tokens
    if config.init == "text":
        from transformers import AutoTokenizer

        name = config.base_model_name_or_path or model.config.name_or_path
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        ids = torch.tensor(tokenizer(config.init_text, add_special_tokens=False)["input_ids"])
    else:
        ids = torch.randperm(embeddings.weight.shape[0])[:length]
    ids = ids[torch.arange(length) % len(ids)].to(embeddings.weight.device)
    return keys_and_values(ids[None], modified) if config.kind == "prefix" else [embeddings(ids).float().clone()]


@torch.no_grad()
def keys_and_values(ids: torch.Tensor, modified: list[Any]) -> list[torch.Tensor]:
    """Run tokens (1, tokens) through each stack and return their keys and values (tokens, dim) in it."""
    vectors: list[torch.Tensor] = []
    arguments = {"input_ids": ids}
    for stack in modified:
        was_training, stack.soft_prompt.recorded = stack.training, {}
        arguments["encoder_hidden_states"] = stack.eval()(**arguments)[0]  # for T5's decoder, which comes second
        stack.train(was_training)
        vectors.append(torch.cat([each.float() for _, each in sorted(stack.soft_prompt.recorded.items())], dim=1))
        stack.soft_prompt.recorded = None
    return vectors


register_tuner("SOFT_PROMPT", SoftPromptConfig, SoftPromptModel)

__all__ = ["SoftPromptConfig", "SoftPromptModel", "add_prompts", "replace_prompt_encoders", "stacks"]
