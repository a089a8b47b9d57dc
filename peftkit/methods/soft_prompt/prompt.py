"""Prompt tuning and P-tuning: vectors before the embeddings of a text."""

import inspect
from typing import Any

import torch
from torch import nn

from peftkit.compat.transformers import apply_pooler
from peftkit.compat.tuner import check_values
from peftkit.config.families import family_of
from peftkit.methods.soft_prompt.layer import SoftPromptLayer, positions_of


class PromptLayer(SoftPromptLayer):
    """Learned vectors before the text's embeddings; heads receive the states of the text only.

    A T5 encoder before a decoder keeps the prompt's states, as in the paper, and the decoder's mask is extended; those
    of any other stack are removed.
    """

    def __init__(self, stack: nn.Module, decoder: nn.Module | None = None) -> None:
        super().__init__(stack)
        self._prompt_length = 0  # in the current call
        self._argument_names = list(inspect.signature(stack.forward).parameters)
        self._handles = [
            stack.register_forward_pre_hook(self._add_prompt, with_kwargs=True),
            stack.register_forward_hook(self._remove_prompt)
            if decoder is None
            else decoder.register_forward_pre_hook(self._extend_cross_mask, with_kwargs=True),
        ]

    def prompt(self, batch: int, device: torch.device) -> torch.Tensor | None:
        """Return the prompts of a batch (batch, tokens, dim): several active ones are concatenated."""
        names = self.active_names()
        vectors = [self.vectors(name) for name in names]
        if self.example_names is None:
            return torch.cat(vectors).unsqueeze(0).expand(batch, -1, -1) if names else None
        indices = self.adapter_indices(names, batch, device)
        check_values(
            (
                bool((indices < 0).any()),
                "a batch cannot mix examples with and without a soft prompt; predict them separately",
            ),
            (
                len({len(vector) for vector in vectors}) > 1,
                "prompts of one batch must have one length; use one num_virtual_tokens",
            ),
        )
        return torch.stack(vectors)[indices]

    def _add_prompt(
        self, stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._prompt_length = 0
        inputs = dict(zip(self._argument_names, args, strict=False)) | kwargs
        ids, states, mask = inputs.get("input_ids"), inputs.get("inputs_embeds"), inputs.get("attention_mask")
        tokens: torch.Tensor = ids if states is None else states  # type: ignore[assignment]
        prompt = self.prompt(tokens.shape[0], tokens.device)
        if prompt is None:
            return args, kwargs
        length, past, positions = prompt.shape[1], inputs.get("past_key_values"), inputs.get("position_ids")
        is_first = past is None or past.get_seq_length() == 0
        if mask is None and is_first:
            mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        if mask is not None:
            inputs["attention_mask"] = torch.cat([mask.new_ones(prompt.shape[0], length), mask], dim=1)
        if not is_first:  # the cache contains the prompt
            return (), (inputs if positions is None else inputs | {"position_ids": positions + length})
        if states is None:
            states = stack.get_input_embeddings()(ids)
        inputs |= {"input_ids": None, "inputs_embeds": torch.cat([prompt.to(states.dtype), states], dim=1)}
        self._check_positions(stack.config, inputs["inputs_embeds"].shape[1], length)
        if (is_global := inputs.get("global_attention_mask")) is not None:  # Longformer's; prompts attend locally
            inputs["global_attention_mask"] = torch.cat([is_global.new_zeros(len(prompt), length), is_global], dim=1)
        if (types := inputs.get("token_type_ids")) is not None:
            inputs["token_type_ids"] = torch.cat([types[:, :1].repeat(1, length), types], dim=1)
        if positions is not None:
            of_prompt = torch.arange(length, device=positions.device).expand(positions.shape[0], -1)
            inputs["position_ids"] = torch.cat([of_prompt, positions + length], dim=1)
        elif self._counts_positions:
            inputs["position_ids"] = positions_of(inputs["attention_mask"])
        self._prompt_length = length
        return (), inputs

    def _remove_prompt(self, stack: nn.Module, args: tuple[Any, ...], outputs: Any) -> Any:
        length, self._prompt_length = self._prompt_length, 0
        if not length:
            return outputs
        if isinstance(outputs, tuple):
            return (outputs[0][:, length:], *outputs[1:])
        outputs.last_hidden_state = outputs.last_hidden_state[:, length:]
        if outputs.get("hidden_states") is not None:
            outputs.hidden_states = tuple(states[:, length:] for states in outputs.hidden_states)
        if outputs.get("pooler_output") is not None:
            outputs.pooler_output = apply_pooler(stack, outputs.last_hidden_state)
        return outputs

    def _extend_cross_mask(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        states, mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")
        if states is None or mask is None or mask.shape[1] == states.shape[1]:
            return args, kwargs
        of_prompt = mask.new_ones(mask.shape[0], states.shape[1] - mask.shape[1])
        return args, {**kwargs, "encoder_attention_mask": torch.cat([of_prompt, mask], dim=1)}

    @staticmethod
    def _check_positions(config: Any, tokens: int, prompt: int) -> None:
        family, limit = family_of(config.model_type), getattr(config, "max_position_embeddings", None)
        if limit is None or family is None or family.reserved_positions is None:
            return
        limit -= family.reserved_positions
        if tokens > limit:
            raise ValueError(
                f"{prompt} virtual tokens and {tokens - prompt} of text exceed the {limit} positions of "
                f"{config.model_type}; set task.max_length={limit - prompt} or less"
            )
