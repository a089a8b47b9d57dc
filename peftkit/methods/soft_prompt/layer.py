"""What prompts and prefixes share: vectors by adapter, their encoders, and positions beside padding."""

from __future__ import annotations

import inspect

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from peftkit.compat.tuner import TunerLayer, repeats
from peftkit.methods.soft_prompt.attention import is_causal
from peftkit.methods.soft_prompt.config import SoftPromptConfig


class SoftPromptLayer(TunerLayer):
    """The soft prompts of one stack: their vectors by name, and the encoders that compute them in training."""

    adapter_layer_names: tuple[str, ...] = ("soft_prompt_vectors", "soft_prompt_encoder")

    def __init__(self) -> None:
        super().__init__()
        self.soft_prompt_vectors = nn.ParameterDict()  # (tokens, width): the prompt, or its encoder's input
        self.soft_prompt_encoder = nn.ModuleDict()
        self.example_names: list[str] | None = None  # an adapter for each example of the batch
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
        """Replace each encoder by its output."""
        for name in list(self.soft_prompt_encoder):
            with torch.no_grad():
                vectors = self.vectors(name)
            kept = nn.Parameter(vectors, requires_grad=self.soft_prompt_vectors[name].requires_grad)
            self.soft_prompt_vectors[name] = kept
            del self.soft_prompt_encoder[name]

    def used_names(self) -> list[str]:
        """Return the names of the prompts for the current batch, in order; none where they are disabled."""
        if self.disable_adapters:
            return []
        names = self.active_adapters if self.example_names is None else dict.fromkeys(self.example_names)
        return [name for name in names if name in self.soft_prompt_vectors]

    def release(self) -> None:
        """Restore the stack."""
        for handle in self._handles:
            handle.remove()

    def prompt_numbers(self, names: list[str], batch: int, device: torch.device) -> torch.Tensor:
        """Return for each example the index of its prompt, or -1; beam search repeats examples in their order."""
        assert self.example_names is not None
        index = {name: number for number, name in enumerate(names)}
        numbers = torch.tensor([index.get(name, -1) for name in self.example_names], device=device)
        return numbers.repeat_interleave(repeats(batch, self.example_names))


class Encoder(nn.Module):
    """Computes a prompt's vectors (tokens, written) from others (tokens, read)."""

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
    """Return the positions of tokens (batch, tokens) from their mask; padding on either side has none."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def counts_positions(stack: nn.Module) -> bool:
    """Return whether a decoder without position ids would count padding on the left."""
    return is_causal(stack) and "position_ids" in inspect.signature(stack.forward).parameters
