"""The config of mixes of prefix, adapter and LoRA, and the configs of their parts."""

from __future__ import annotations

from dataclasses import dataclass

from peftkit.compat.peft import peft_type
from peftkit.config.families import family_of
from peftkit.methods.adapter import BottleneckConfig
from peftkit.methods.soft_prompt import SoftPromptConfig


@dataclass
class MixConfig(BottleneckConfig):
    """A prefix at every attention, an adapter, and LoRA at queries and values, in one method.

    Mix-and-Match (He et al. 2022, section 4.6) is a short prefix and a scaled parallel adapter. UniPELT (Mao et al.
    2022, section 3.2) is a prefix, a Pfeiffer adapter and LoRA, each behind a gate of every layer: a factor in (0, 1)
    that a small learned layer computes from the part's own input, averaged over the tokens.

    Where the paper, its authors' code and the `adapters` library 1.3.0 differ, peftkit does this:
    the mean leaves out padding, which both programs count, so that a text's gates do not depend on its batch;
    a stack with causal attention (GPT-2, Llama, T5's decoder) has a gate for each token instead of the mean, which
    would leak later tokens and which generation from a cache could not repeat;
    the adapter's gate has the adapter's input, as in both programs: the feed-forward's output with residual, in
    BERT normed; query and value have a gate each, as in both programs, where the paper has one a layer;
    LoRA's gate replaces its alpha / rank, as in the paper and in both programs; keys and values of a prefix
    share one gate; GPT-2, which computes queries, keys and values at once, has one LoRA and one gate for both.

    Args:
        kind: the adapter's, as in `BottleneckConfig`, whose other arguments are the adapter's too. `layers` is for
            adapter and LoRA; the prefix stays in all.
        num_virtual_tokens: length of the prefix.
        encoder: mlp or lstm, as in `SoftPromptConfig`; null: the prefix trains directly, from the keys and values of
            random tokens.
        encoder_hidden_size: width within the encoder; null: the model's.
        rank: of LoRA; null: no LoRA.
        alpha: LoRA's output is scaled by alpha / rank; null: by 1.
        gated: whether every part has its gates.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: str = "parallel"
    num_virtual_tokens: int = 30
    encoder: str | None = None
    encoder_hidden_size: int | None = None
    rank: int | None = None
    alpha: float | None = None
    gated: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("MIX")
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank={self.rank} leaves no LoRA; set 1 or more, or null for none")
        if self.alpha is not None and self.rank is None:
            raise ValueError(f"alpha={self.alpha} scales LoRA, which rank=null leaves out; set rank=8")
        self.prefix()

    def prefix(self) -> SoftPromptConfig:
        """Return the prefix's own config."""
        return SoftPromptConfig(
            kind="prefix",
            num_virtual_tokens=self.num_virtual_tokens,
            encoder=self.encoder,
            encoder_hidden_size=self.encoder_hidden_size,
        )

    def low_rank(self) -> BottleneckConfig:
        """Return LoRA's config: to He et al. (2022, table 1) a parallel adapter without activation."""
        assert self.rank is not None
        scaling = 1.0 if self.alpha is None else self.alpha / self.rank
        return BottleneckConfig(
            bottleneck_dim=self.rank, activation="linear", scaling=scaling, inference_mode=self.inference_mode
        )

    def places(self, model_type: str) -> str:
        adapter = super().places(model_type)
        family = family_of(model_type)
        assert family is not None  # or the adapter had no places
        # a Pfeiffer adapter there follows the whole layer, which must not wrap the mix's own LoRA
        if self.kind == "pfeiffer" and family.is_norm_first:
            adapter = family.modules.feed_forward
        return adapter if self.rank is None else f"{adapter}|{family.modules.query_value}"
