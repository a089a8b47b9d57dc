"""What prompts and prefixes share: their config, vectors by adapter, encoders, attentions, and positions."""

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
    """Learned vectors beside the text; heads receive the positions of the text only.

    Args:
        kind: prompt, input vectors before the text, for T5 before the encoder's (Lester et al. 2021, section 2);
            p_tuning, the same, made by an encoder (Liu et al. 2021, section 3.2); prefix, keys and values beside those
            of every attention, in T5 of the encoder, of the decoder, and of its cross-attention (Li and Liang 2021,
            section 4.2).
        num_virtual_tokens: length of the prompt. A prompt takes that many of the model's positions, a prefix none.
        init: where the vectors start: vocabulary, at those of random tokens (Lester et al., section 3.2), for a prefix
            at the keys and values that random tokens give (Li and Liang, section 7.4); text, at those of `init_text`;
            random, at a normal distribution with the standard deviation `init_std`.
        init_text: for init=text; cut or repeated to `num_virtual_tokens`. Tokenized by the base's tokenizer.
        init_std: for init=random, and for the input of an encoder.
        encoder: mlp or lstm, which computes the vectors from others that train with it, and is replaced by its output
            when training ends (Li and Liang, section 4.3; Liu et al., section 3.2); null: the vectors train directly.
        encoder_hidden_size: width within the encoder; null: the model's.
        modules_to_save: modules that train whole and are saved with the prompt, such as a head.
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
            self.init = "random"  # the encoder's input is no embedding


class SoftPromptLayer(HookLayer):
    """The soft prompts of one stack: their vectors by name, and the encoders that compute them in training."""

    adapter_layer_names: tuple[str, ...] = ("soft_prompt_vectors", "soft_prompt_encoder")

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        self.soft_prompt_vectors = nn.ParameterDict()  # (tokens, width): the prompt, or its encoder's input
        self.soft_prompt_encoder = nn.ModuleDict()
        # whether the stack, a decoder, would count padding on the left where it is given no position ids
        self._counts_positions = is_causal(stack) and "position_ids" in inspect.signature(stack.forward).parameters

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

    @torch.no_grad()
    def fold(self) -> None:
        """Replace each encoder by its output."""
        for name in list(self.soft_prompt_encoder):
            trains = self.soft_prompt_vectors[name].requires_grad
            self.soft_prompt_vectors[name] = nn.Parameter(self.vectors(name), requires_grad=trains)
            del self.soft_prompt_encoder[name]


class Encoder(nn.Module):
    """Computes a prompt's vectors (tokens, written) from others (tokens, read)."""

    def __init__(self, kind: str, read: int, hidden: int, written: int) -> None:
        super().__init__()
        self.lstm: nn.LSTM | None = None
        if kind == "lstm":
            self.lstm = nn.LSTM(read, hidden // 2, num_layers=2, bidirectional=True)
            read = 2 * (hidden // 2)
        self.mlp = nn.Sequential(
            nn.Linear(read, hidden), nn.Tanh() if kind == "mlp" else nn.ReLU(), nn.Linear(hidden, written)
        )

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        if self.lstm is not None:
            vectors = self.lstm(vectors)[0]
        return self.mlp(vectors)  # type: ignore[no-any-return]


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """Return the positions of tokens (batch, tokens) from their mask; padding on either side has none."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def is_attention(module: nn.Module) -> bool:
    """Return whether a module multiplies queries with keys."""
    return hasattr(module, "scaling") and any(hasattr(module, key) for key in KEYS)


def attentions(stack: nn.Module) -> Iterator[nn.Module]:
    """Yield the attentions of a stack, in order."""
    return filter(is_attention, stack.modules())


def is_causal(stack: nn.Module) -> bool:
    """Return whether a stack's tokens attend to no later ones."""
    return any(getattr(attention, "is_causal", False) for attention in attentions(stack))
