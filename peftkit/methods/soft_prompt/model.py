"""Turn a pretrained model into one with soft prompts beside its text, whatever its head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from peftkit.methods.hooked_tuner import HookedTuner
from peftkit.methods.soft_prompt.config import SoftPromptConfig
from peftkit.methods.soft_prompt.layer import PrefixLayer, PromptLayer, SoftPromptLayer


class SoftPromptModel(HookedTuner):
    """PEFT's tuner for `SoftPromptConfig`: get_peft_model makes it."""

    prefix = "soft_prompt_"
    tuner_layer_cls = SoftPromptLayer

    def _hook(self, model: nn.Module, adapter_name: str, config: Any, is_loaded: bool) -> list[nn.Module]:
        kinds = {other.kind == "prefix" for other in self.peft_config.values()}  # type: ignore[union-attr, attr-defined]
        if len(kinds) > 1:
            raise ValueError("prompts and prefixes cannot share a model; load them over separate bases")
        return [stack for stack, _ in add_prompts(model, adapter_name, config, is_loaded)]

    def unload(self) -> nn.Module:
        """Return the base without any prompt."""
        take_prompts(self.model)
        return super().unload()

    def _check_merge_allowed(self) -> None:
        raise ValueError("a soft prompt is no change of the base's weights and cannot be merged; try unload()")


def add_prompts(
    model: nn.Module, adapter_name: str, config: SoftPromptConfig, is_loaded: bool = False
) -> list[tuple[nn.Module, SoftPromptLayer]]:
    """Give the stacks that the kind reaches a fresh prompt, and return them with their layers.

    `is_loaded` tells that saved vectors will replace the fresh ones, which need no good start then.
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


def take_prompts(model: nn.Module) -> None:
    """Give the stacks back as they were."""
    for stack in stacks(model):
        if isinstance(layer := getattr(stack, "soft_prompt", None), SoftPromptLayer):
            layer.release()
            del stack.soft_prompt


def stacks(model: nn.Module) -> list[nn.Module]:
    """Return what a model's text runs through: its backbone, or T5's encoder and, where it has one, its decoder."""
    found = [module for module in model.modules() if type(module).__name__ == "T5Stack"]
    if found:
        return sorted(found, key=lambda stack: bool(stack.config.is_decoder))  # type: ignore[union-attr]
    return [getattr(model, getattr(model, "base_model_prefix", ""), model)]


def fold(model: nn.Module) -> None:
    """Replace every encoder of prompts by what it writes: training is over, and the vectors alone are shipped."""
    for module in model.modules():
        if isinstance(module, SoftPromptLayer):
            module.fold()
    for config in getattr(model, "peft_config", {}).values():
        if hasattr(config, "encoder"):  # a soft prompt's, or that of a mix
            config.encoder = None


def _layers(model: nn.Module, config: SoftPromptConfig) -> list[tuple[nn.Module, SoftPromptLayer]]:
    """Return the stacks that this kind reaches, with their layers, made where they are not there yet."""
    found = stacks(model)
    encoder, decoder = found[0], found[1] if len(found) > 1 else None
    layers = []
    for stack in found if config.kind == "prefix" else [encoder]:
        if not isinstance(getattr(stack, "soft_prompt", None), SoftPromptLayer):
            stack.soft_prompt = PrefixLayer(stack) if config.kind == "prefix" else PromptLayer(stack, decoder)
        layers.append((stack, stack.soft_prompt))
    return layers  # type: ignore[return-value]


def _start(
    model: nn.Module, config: SoftPromptConfig, layers: list[tuple[nn.Module, SoftPromptLayer]]
) -> dict[SoftPromptLayer, torch.Tensor] | None:
    """Return what the vectors start as, None for random ones."""
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

    name = config.base_model_name_or_path or model.config._name_or_path  # type: ignore[union-attr, operator]
    ids = AutoTokenizer.from_pretrained(name)(config.init_text, add_special_tokens=False)["input_ids"]
    return torch.tensor(ids)


def keys_and_values(
    ids: torch.Tensor, layers: list[tuple[nn.Module, SoftPromptLayer]]
) -> dict[SoftPromptLayer, torch.Tensor]:
    """Run tokens (1, tokens) through each stack and return the keys and values (tokens, width) that they have there."""
    found: dict[SoftPromptLayer, torch.Tensor] = {}
    states = None
    for stack, layer in layers:
        assert isinstance(layer, PrefixLayer)
        more: dict[str, Any] = {} if states is None else {"encoder_hidden_states": states}
        was_training = stack.training
        stack.eval()
        with layer.recording() as recorded:
            states = stack(input_ids=ids, **more)[0]
        stack.train(was_training)
        found[layer] = torch.cat([part.float() for part in recorded], dim=1)
    return found
