"""Common parts of prompts and prefixes: config, vectors by adapter, encoders, attentions, and positions."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from peft import PeftConfig
from torch import nn

from peftkit.compat.peft import peft_type
from peftkit.compat.tuner import HookLayer, check_values

CHOICES = {
    "kind": ("prompt", "p_tuning", "prefix"),
    "init": ("vocabulary", "text", "random"),
    "encoder": (None, "mlp", "lstm"),
}
# names of the projection to keys; GPT-2's c_attn computes queries, keys and values at once
KEYS = ("key", "k_lin", "k", "k_proj", "c_attn")


@dataclass
class SoftPromptConfig(PeftConfig):
    """Learned vectors added to the text; heads receive the positions of the text only.

    Args:
        kind: prompt, input vectors before the text, for T5 before the encoder's (Lester et al. 2021, section 2);
            p_tuning, the same, made by an encoder (Liu et al. 2021, section 3.2); prefix, keys and values before those
            of every attention, in T5 of the encoder, of the decoder, and of its cross-attention (Li and Liang 2021,
            section 4.2).
        num_virtual_tokens: length of the prompt. A prompt takes that many of the model's positions, a prefix none.
        init: the initial vectors: vocabulary, those of random tokens (Lester et al., section 3.2), for a prefix the
            keys and values of random tokens (Li and Liang, section 7.4); text, those of `init_text`; random, from a
            normal distribution with the standard deviation `init_std`.
        init_text: for init=text; truncated or repeated to `num_virtual_tokens`. Tokenized by the base's tokenizer.
        init_std: for init=random, and for the input of an encoder.
        encoder: mlp or lstm, which computes the vectors from others that train with it, and is replaced by its output
            when training ends (Li and Liang, section 4.3; Liu et al., section 3.2); null: the vectors train directly.
        encoder_hidden_size: hidden size of the encoder; null: the model's.
        modules_to_save: modules that are fully trained and saved with the prompt, such as a head.
        trainable_token_indices: ids of tokens whose embedding rows train and are saved, or such ids by the name of the
            layer; the other rows stay unchanged.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: str = "prompt"
    num_virtual_tokens: int = 20
    init: str = "vocabulary"
    init_text: str | None = None
    init_std: float = 0.02
    encoder: str | None = None
    encoder_hidden_size: int | None = None
    modules_to_save: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("SOFT_PROMPT")
        check_values(
            *(
                (
                    getattr(self, name) not in known,
                    f"{name}={getattr(self, name)} is unknown; choose one of {', '.join(map(str, known))}",
                )
                for name, known in CHOICES.items()
            ),
            (
                self.num_virtual_tokens < 1,
                f"num_virtual_tokens={self.num_virtual_tokens} leaves no prompt; set 1 or more",
            ),
            (self.init_std <= 0, f"init_std={self.init_std} makes all vectors equal; set it above 0"),
            (
                self.init == "text" and not self.init_text,
                "init=text needs init_text, such as init_text='Tell the sentiment of this sentence:'",
            ),
        )
        if self.encoder is not None:
            self.init = "random"  # the encoder's input is not an embedding


class SoftPromptLayer(HookLayer):
    """The soft prompts of one stack: their vectors by name, and the encoders that compute them in training."""

    adapter_layer_names: tuple[str, ...] = ("soft_prompt_vectors", "soft_prompt_encoder")

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        self.soft_prompt_vectors = nn.ParameterDict()  # (tokens, dim): the prompt, or its encoder's input
        self.soft_prompt_encoder = nn.ModuleDict()
        # whether the stack, a decoder, would count padding on the left if it got no position ids
        self._counts_positions = is_causal(stack) and "position_ids" in inspect.signature(stack.forward).parameters

    def add(self, name: str, config: SoftPromptConfig, input_dim: int, vectors: torch.Tensor) -> None:
        """Add a new prompt: these vectors (tokens, output_dim), or an encoder that computes as many."""
        if config.encoder is not None:
            output_dim, hidden_dim = vectors.shape[1], config.encoder_hidden_size or input_dim
            vectors = torch.randn(config.num_virtual_tokens, input_dim) * config.init_std
            self.soft_prompt_encoder[name] = PromptEncoder(config.encoder, input_dim, hidden_dim, output_dim)
        self.soft_prompt_vectors[name] = nn.Parameter(vectors)

    def vectors(self, name: str) -> torch.Tensor:
        """Return a prompt's vectors (tokens, output_dim)."""
        vectors = self.soft_prompt_vectors[name]
        return self.soft_prompt_encoder[name](vectors) if name in self.soft_prompt_encoder else vectors

    @torch.no_grad()
    def replace_encoders(self) -> None:
        """Replace each encoder by its output."""
        for name in list(self.soft_prompt_encoder):
            trains = self.soft_prompt_vectors[name].requires_grad
            self.soft_prompt_vectors[name] = nn.Parameter(self.vectors(name), requires_grad=trains)
            del self.soft_prompt_encoder[name]


class PromptEncoder(nn.Module):
    """Computes a prompt's vectors (tokens, output_dim) from others (tokens, input_dim)."""

    def __init__(self, kind: str, input_dim: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.lstm: nn.LSTM | None = None
        if kind == "lstm":
            self.lstm = nn.LSTM(input_dim, hidden_dim // 2, num_layers=2, bidirectional=True)
            input_dim = 2 * (hidden_dim // 2)
        self.mlp = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.Tanh() if kind == "mlp" else nn.ReLU(),
            nn.Linear(hidden_dim, output_dim),
        )

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        if self.lstm is not None:
            vectors = self.lstm(vectors)[0]
        return self.mlp(vectors)  # type: ignore[no-any-return]


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """Return the positions of tokens (batch, tokens) from their mask; padding on either side is not counted."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def is_attention(module: nn.Module) -> bool:
    """Return whether a module is an attention: it has a scaling and a projection to keys."""
    return hasattr(module, "scaling") and any(hasattr(module, key) for key in KEYS)


def attentions(stack: nn.Module) -> Iterator[nn.Module]:
    """Yield the attentions of a stack, in order."""
    return filter(is_attention, stack.modules())


def is_causal(stack: nn.Module) -> bool:
    """Return whether a stack's attention is causal."""
    return any(getattr(attention, "is_causal", False) for attention in attentions(stack))
