"""Soft prompts in a pretrained model with any head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from peftkit.compat.transformers import T5Stack, checkpoint_name
from peftkit.compat.tuner import HookedTuner
from peftkit.methods.soft_prompt.config import SoftPromptConfig
from peftkit.methods.soft_prompt.layer import SoftPromptLayer
from peftkit.methods.soft_prompt.prefix import PrefixLayer
from peftkit.methods.soft_prompt.prompt import PromptLayer


class SoftPromptModel(HookedTuner):
    """PEFT's tuner for `SoftPromptConfig`."""

    prefix = "soft_prompt_"
    merge_refusal = "a soft prompt does not change the base's weights and cannot be merged"
    tuner_layer_cls = SoftPromptLayer

    def hook(self, model: nn.Module, adapter_name: str, config: Any, is_loaded: bool) -> list[nn.Module]:
        kinds = {other.kind == "prefix" for other in self.peft_config.values()}  # type: ignore[union-attr, attr-defined]
        if len(kinds) > 1:
            raise ValueError("prompts and prefixes cannot share a model; load them over separate bases")
        return [stack for stack, _ in add_prompts(model, adapter_name, config, is_loaded)]

    def unload(self) -> nn.Module:
        """Return the base without any prompt."""
        remove_prompts(self.model)
        return super().unload()


def add_prompts(
    model: nn.Module, adapter_name: str, config: SoftPromptConfig, is_loaded: bool = False
) -> list[tuple[nn.Module, SoftPromptLayer]]:
    """Give a fresh prompt to the stacks that the kind reaches, and return them with their layers.

    `is_loaded`: saved vectors will replace the fresh ones, which then need no initialization from tokens.
    """
    layers = _layers(model, config)
    start = None if config.encoder or is_loaded else _start(model, config, layers)
    device = next(model.parameters()).device
    for stack, layer in layers:
        read = int(stack.get_input_embeddings().weight.shape[1])  # type: ignore[operator]
        written = layer.width if isinstance(layer, PrefixLayer) else read
        size = (config.num_virtual_tokens, written)
        vectors = torch.randn(size) * config.init_std if start is None else start[layer]
        layer.add(adapter_name, config, read, vectors)
        layer.to(device)
    return layers


def remove_prompts(model: nn.Module) -> None:
    """Restore the stacks."""
    for stack in stacks(model):
        if isinstance(layer := getattr(stack, "soft_prompt", None), SoftPromptLayer):
            layer.release()
            del stack.soft_prompt


def stacks(model: nn.Module) -> list[nn.Module]:
    """Return a model's backbone, or T5's encoder and, where it has one, its decoder."""
    t5 = [module for module in model.modules() if isinstance(module, T5Stack)]
    if t5:
        return sorted(t5, key=lambda stack: bool(stack.config.is_decoder))  # type: ignore[union-attr]
    return [getattr(model, getattr(model, "base_model_prefix", ""), model)]


def fold(model: nn.Module) -> None:
    """Replace every encoder of prompts by its output, at the end of training: only the vectors are saved."""
    for module in model.modules():
        if isinstance(module, SoftPromptLayer):
            module.fold()
    for config in getattr(model, "peft_config", {}).values():
        if hasattr(config, "encoder"):  # a soft prompt's, or that of a mix
            config.encoder = None


def _layers(model: nn.Module, config: SoftPromptConfig) -> list[tuple[nn.Module, SoftPromptLayer]]:
    """Return the stacks that this kind reaches with their layers, which are created where they are missing."""
    reached = stacks(model)
    encoder, decoder = reached[0], reached[1] if len(reached) > 1 else None
    layers = []
    for stack in reached if config.kind == "prefix" else [encoder]:
        if not isinstance(getattr(stack, "soft_prompt", None), SoftPromptLayer):
            stack.soft_prompt = PrefixLayer(stack) if config.kind == "prefix" else PromptLayer(stack, decoder)
        layers.append((stack, stack.soft_prompt))
    return layers  # type: ignore[return-value]


def _start(
    model: nn.Module, config: SoftPromptConfig, layers: list[tuple[nn.Module, SoftPromptLayer]]
) -> dict[SoftPromptLayer, torch.Tensor] | None:
    """Return the initial vectors, None for random ones."""
    if config.init == "random":
        return None
    encoder = layers[0][0]
    embeddings = encoder.get_input_embeddings()  # type: ignore[operator]
    if config.init == "text":
        ids = _text_ids(config, model)
    else:
        ids = torch.randperm(embeddings.weight.shape[0])[: config.num_virtual_tokens]
    ids = ids[torch.arange(config.num_virtual_tokens) % len(ids)].to(embeddings.weight.device)
    with torch.no_grad():
        if config.kind != "prefix":
            return {layers[0][1]: embeddings(ids).float().clone()}
        return keys_and_values(ids[None], layers)


def _text_ids(config: SoftPromptConfig, model: nn.Module) -> torch.Tensor:
    from transformers import AutoTokenizer

    name = config.base_model_name_or_path or checkpoint_name(model.config)  # type: ignore[arg-type]
    ids = AutoTokenizer.from_pretrained(name)(config.init_text, add_special_tokens=False)["input_ids"]
    return torch.tensor(ids)


def keys_and_values(
    ids: torch.Tensor, layers: list[tuple[nn.Module, SoftPromptLayer]]
) -> dict[SoftPromptLayer, torch.Tensor]:
    """Run tokens (1, tokens) through each stack and return their keys and values (tokens, width) in it."""
    vectors: dict[SoftPromptLayer, torch.Tensor] = {}
    states = None
    for stack, layer in layers:
        assert isinstance(layer, PrefixLayer)
        more: dict[str, Any] = {} if states is None else {"encoder_hidden_states": states}
        was_training = stack.training
        stack.eval()
        with layer.recording() as recorded:
            states = stack(input_ids=ids, **more)[0]
        stack.train(was_training)
        vectors[layer] = torch.cat([each.float() for each in recorded], dim=1)
    return vectors
