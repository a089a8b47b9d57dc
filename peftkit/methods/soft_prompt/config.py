"""The config of soft prompts, which PEFT saves and loads."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftConfig

from peftkit.compat.peft import peft_type

KINDS = ("prompt", "p_tuning", "prefix")
INITS = ("vocabulary", "text", "random")
ENCODERS = (None, "mlp", "lstm")


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
        for name, known in (("kind", KINDS), ("init", INITS), ("encoder", ENCODERS)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name}={value} is unknown; choose one of {', '.join(map(str, known))}")
        if self.num_virtual_tokens < 1:
            raise ValueError(f"num_virtual_tokens={self.num_virtual_tokens} leaves no prompt; set 1 or more")
        if self.init_std <= 0:
            raise ValueError(f"init_std={self.init_std} makes all vectors equal; set it above 0")
        if self.init == "text" and not self.init_text:
            raise ValueError("init=text needs init_text, such as init_text='Tell the sentiment of this sentence:'")
        if self.encoder is not None and self.init != "random":
            self.init = "random"  # the encoder's input is no embedding
