"""Turn a stack of transformer layers into one that reads learned vectors beside its text."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.utils.hooks import RemovableHandle

from peftkit.config.families import family_of
from peftkit.methods.hooked_tuner import pooled
from peftkit.methods.mixed_batch import repeats
from peftkit.methods.soft_prompt.attention import Prefix, attentions, give_prefix, is_causal, key_shape, take_prefix
from peftkit.methods.soft_prompt.config import SoftPromptConfig


class SoftPromptLayer(nn.Module, BaseTunerLayer):
    """What the soft prompts of one stack share: their vectors by name, and how the active one is computed."""

    adapter_layer_names: tuple[str, ...] = ("soft_prompt_vectors", "soft_prompt_encoder")
    other_param_names = ()

    def __init__(self) -> None:
        super().__init__()
        self.soft_prompt_vectors = nn.ParameterDict()  # (tokens, width): the prompt, or what its encoder reads
        self.soft_prompt_encoder = nn.ModuleDict()
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []
        self.row_names: list[str] | None = None  # an adapter for each row of the batch
        self._handles: list[RemovableHandle] = []  # on the stack

    def add(self, name: str, config: SoftPromptConfig, read: int, vectors: torch.Tensor) -> None:
        """Add a fresh prompt: these vectors (tokens, written), or an encoder that writes as many."""
        if config.encoder is not None:
            written = vectors.shape[1]
            vectors = torch.randn(config.num_virtual_tokens, read) * config.init_std
            self.soft_prompt_encoder[name] = Encoder(config.encoder, read, config.encoder_hidden_size or read, written)
        self.soft_prompt_vectors[name] = nn.Parameter(vectors)

    def vectors(self, name: str) -> torch.Tensor:
        """Return a prompt's vectors (tokens, written)."""
        vectors = self.soft_prompt_vectors[name]
        return self.soft_prompt_encoder[name](vectors) if name in self.soft_prompt_encoder else vectors

    def fold(self) -> None:
        """Keep what each encoder writes, and forget the encoder."""
        for name in list(self.soft_prompt_encoder):
            with torch.no_grad():
                vectors = self.vectors(name)
            kept = nn.Parameter(vectors, requires_grad=self.soft_prompt_vectors[name].requires_grad)
            self.soft_prompt_vectors[name] = kept
            del self.soft_prompt_encoder[name]

    def now(self) -> list[str]:
        """Return the names of the prompts that the present batch reads, in order; none where they are disabled."""
        if self.disable_adapters:
            return []
        names = self.active_adapters if self.row_names is None else dict.fromkeys(self.row_names)
        return [name for name in names if name in self.soft_prompt_vectors]

    def release(self) -> None:
        """Give the stack back as it was."""
        for handle in self._handles:
            handle.remove()

    def _rows_of(self, names: list[str], batch: int, device: torch.device) -> torch.Tensor:
        """Return for each row of the batch the index of its prompt, or -1; beam search repeats rows in their order."""
        assert self.row_names is not None
        index = {name: number for number, name in enumerate(names)}
        rows = torch.tensor([index.get(name, -1) for name in self.row_names], device=device)
        return rows.repeat_interleave(repeats(batch, self.row_names))


class PromptLayer(SoftPromptLayer):
    """Vectors before the text's own embeddings; heads get the text's states alone.

    A T5 encoder that a decoder reads keeps the prompt's states, as the paper has it, and the decoder's mask is
    lengthened; any other stack's states are cut to the text.
    """

    def __init__(self, stack: nn.Module, decoder: nn.Module | None = None) -> None:
        super().__init__()
        self._added = 0  # positions that the call under way has before the text
        self._argument_names = list(inspect.signature(stack.forward).parameters)
        self._counts_positions = _counts_positions(stack)
        self._handles = [
            stack.register_forward_pre_hook(self._lengthen, with_kwargs=True),
            stack.register_forward_hook(self._cut if decoder is None else self._keep, with_kwargs=True),
        ]
        if decoder is not None:
            self._handles.append(decoder.register_forward_pre_hook(self._lengthen_cross_mask, with_kwargs=True))

    def prompt(self, batch: int, device: torch.device) -> torch.Tensor | None:
        """Return the prompts of a batch (batch, tokens, width): several active ones stand one after the other."""
        names = self.now()
        if not names and self.row_names is None:
            return None
        if self.row_names is None:
            return torch.cat([self.vectors(name) for name in names]).unsqueeze(0).expand(batch, -1, -1)
        rows = self._rows_of(names, batch, device)
        if (rows < 0).any():
            raise ValueError("a batch cannot mix rows with a soft prompt and rows without one; predict them apart")
        vectors = [self.vectors(name) for name in names]
        if len({len(vector) for vector in vectors}) > 1:
            raise ValueError("prompts of one batch must have one length; set num_virtual_tokens alike")
        return torch.stack(vectors)[rows]

    def _lengthen(
        self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._added = 0
        inputs = dict(zip(self._argument_names, args, strict=False)) | kwargs
        ids, states, mask = inputs.get("input_ids"), inputs.get("inputs_embeds"), inputs.get("attention_mask")
        given: torch.Tensor = ids if states is None else states  # type: ignore[assignment]
        prompt = self.prompt(len(given), given.device)
        if prompt is None:
            return args, kwargs
        length = prompt.shape[1]
        ones = torch.ones(len(prompt), length, device=prompt.device)
        past = inputs.get("past_key_values")
        is_first = past is None or past.get_seq_length() == 0
        if mask is None and is_first:
            mask = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
        if mask is not None:
            inputs["attention_mask"] = torch.cat([ones.to(mask.dtype), mask], dim=1)
        positions = inputs.get("position_ids")
        if not is_first:  # the cache holds the prompt
            if positions is not None:
                inputs["position_ids"] = positions + length
            return (), inputs
        if states is None:
            states = stack.get_input_embeddings()(ids)  # type: ignore[operator]
        inputs.pop("input_ids", None)
        inputs["inputs_embeds"] = torch.cat([prompt.to(states.dtype), states], dim=1)
        self._check_positions(stack, inputs["inputs_embeds"].shape[1], length)
        if (types := inputs.get("token_type_ids")) is not None:
            inputs["token_type_ids"] = torch.cat([types[:, :1].repeat(1, length), types], dim=1)
        if positions is not None:
            front = torch.arange(length, device=positions.device).expand(len(positions), -1)
            inputs["position_ids"] = torch.cat([front, positions + length], dim=1)
        elif self._counts_positions:
            inputs["position_ids"] = positions_of(inputs["attention_mask"])
        self._added = length
        return (), inputs

    def _cut(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Any:
        added, self._added = self._added, 0
        if not added:
            return outputs
        if isinstance(outputs, tuple):
            return (outputs[0][:, added:], *outputs[1:])
        outputs.last_hidden_state = outputs.last_hidden_state[:, added:]
        if outputs.get("hidden_states") is not None:
            outputs.hidden_states = tuple(states[:, added:] for states in outputs.hidden_states)
        if outputs.get("pooler_output") is not None:
            outputs.pooler_output = pooled(stack, outputs.last_hidden_state)
        return outputs

    def _keep(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Any:
        self._added = 0
        return outputs

    def _lengthen_cross_mask(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        states, mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")
        if states is None or mask is None or mask.shape[1] == states.shape[1]:
            return args, kwargs
        front = mask.new_ones(len(mask), states.shape[1] - mask.shape[1])
        return args, {**kwargs, "encoder_attention_mask": torch.cat([front, mask], dim=1)}

    @staticmethod
    def _check_positions(stack: nn.Module, tokens: int, prompt: int) -> None:
        config: Any = stack.config
        limit = getattr(config, "max_position_embeddings", None)
        family = family_of(config.model_type)
        if limit is None or family is None or family.reserved_positions is None:
            return
        limit -= family.reserved_positions
        if tokens > limit:
            raise ValueError(
                f"{prompt} virtual tokens and {tokens - prompt} of text exceed the {limit} positions of "
                f"{config.model_type}; set task.max_length={limit - prompt} or less"
            )


class PrefixLayer(SoftPromptLayer):
    """Keys and values of every attention of a stack; a row of `vectors` holds them all, attention by attention."""

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        self._shapes: list[tuple[int, int]] = []
        self._recorded: list[torch.Tensor] | None = None
        self._written: dict[str, torch.Tensor] = {}  # by encoders, in the forward pass under way
        self._targets: list[tuple[nn.Module, str]] = []  # a list, so that the attentions are not the layer's own
        for number, attention in enumerate(attentions(stack)):
            self._shapes.append(key_shape(attention))
            self._targets.append((attention, give_prefix(attention, _Source(self, number))))
        self._counts_positions = _counts_positions(stack)
        self._handles = [
            stack.register_forward_pre_hook(self._begin, with_kwargs=True),
            stack.register_forward_hook(self._end),
        ]
        if not self._shapes:
            raise ValueError(f"{type(stack).__name__} has no attention that prefix tuning knows; try another method")

    @property
    def width(self) -> int:
        """How many values a virtual token has, in all attentions together."""
        return sum(2 * heads * size for heads, size in self._shapes)

    def release(self) -> None:
        super().release()
        for attention, implementation in self._targets:
            take_prefix(attention, implementation)

    @contextmanager
    def recording(self) -> Iterator[list[torch.Tensor]]:
        """Collect what the attentions' own keys and values are, for a batch of one row."""
        self._recorded = [torch.empty(0)] * len(self._shapes)
        try:
            yield self._recorded
        finally:
            self._recorded = None

    def prefix(self, number: int, key: torch.Tensor, value: torch.Tensor) -> Prefix | None:
        """Return the prefix of one attention for a batch, which has these keys and values itself."""
        if self._recorded is not None:
            self._recorded[number] = torch.stack([key[0], value[0]]).detach().permute(2, 0, 1, 3).flatten(1)
            return None
        names = self.now()
        if not names:
            return None
        heads, size = self._shapes[number]
        start = sum(2 * heads * size for heads, size in self._shapes[:number])
        stop = start + 2 * heads * size

        def shaped(vectors: torch.Tensor) -> torch.Tensor:
            """(tokens, 2 heads size) to (2, heads, tokens, size)."""
            return vectors[:, start:stop].view(-1, 2, heads, size).permute(1, 2, 0, 3)

        parts = [shaped(self._written[name] if name in self._written else self.vectors(name)) for name in names]
        batch = len(key)
        both = torch.cat(parts, dim=2).unsqueeze(1).expand(-1, batch, -1, -1, -1)
        if self.row_names is None:
            return Prefix(both[0], both[1])
        # every row is given all prefixes, and sees its own
        lengths = torch.tensor([part.shape[2] for part in parts], device=key.device)
        owner = torch.repeat_interleave(torch.arange(len(parts), device=key.device), lengths)
        seen = self._rows_of(names, batch, key.device)[:, None] == owner[None, :]
        return Prefix(both[0], both[1], seen[:, None, None, :])

    def _begin(
        self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Let encoders write once for all layers, outside of what gradient checkpointing computes again."""
        self._written = {name: self.vectors(name) for name in self.now() if name in self.soft_prompt_encoder}
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if not self._counts_positions or positions is not None or mask is None or mask.dim() != 2 or not self.now():
            return args, kwargs
        tokens = next(
            given for given in (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if given is not None
        )
        return args, {**kwargs, "position_ids": positions_of(mask)[:, -tokens.shape[1] :]}

    def _end(self, stack: nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
        if not torch.is_grad_enabled():
            self._written = {}


class _Source:
    """An attention's way to its prefix; an object, so that deepcopy and pickle follow it."""

    def __init__(self, layer: PrefixLayer, number: int) -> None:
        self.layer, self.number = layer, number

    def __call__(self, key: torch.Tensor, value: torch.Tensor) -> Prefix | None:
        return self.layer.prefix(self.number, key, value)


class Encoder(nn.Module):
    """Make a prompt's vectors (tokens, written) out of others (tokens, read)."""

    def __init__(self, kind: str, read: int, hidden: int, written: int) -> None:
        super().__init__()
        self.lstm: nn.LSTM | None = None
        if kind == "lstm":
            self.lstm = nn.LSTM(read, hidden // 2, num_layers=2, bidirectional=True)
            read = 2 * (hidden // 2)
        between = nn.Tanh() if kind == "mlp" else nn.ReLU()
        self.mlp = nn.Sequential(nn.Linear(read, hidden), between, nn.Linear(hidden, written))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        if self.lstm is not None:
            vectors = self.lstm(vectors)[0]
        return self.mlp(vectors)  # type: ignore[no-any-return]


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """Return the positions of tokens (batch, tokens) from their mask: pads take none, on either side."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def _counts_positions(stack: nn.Module) -> bool:
    """Tell whether a decoder would count pads on the left as positions if nobody gave it any."""
    return is_causal(stack) and "position_ids" in inspect.signature(stack.forward).parameters
