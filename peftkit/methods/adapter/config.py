"""Turn an adapter's choices into a config that PEFT saves and loads."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftConfig
from peft.utils.peft_types import PeftType

KINDS = ("houlsby", "pfeiffer")
BERT_ATTENTION, BERT_FEED_FORWARD = r".*\.attention\.output\.dense", r".*\.layer\.\d+\.output\.dense"
# (after the attention sub-layers, after the feed-forward), before the residual is added; matched with re.fullmatch
PLACES: dict[str, tuple[str, str]] = {
    "bert": (BERT_ATTENTION, BERT_FEED_FORWARD),
    "roberta": (BERT_ATTENTION, BERT_FEED_FORWARD),
    "distilbert": (r".*\.attention\.out_lin", r".*\.ffn\.lin2"),
    "gpt2": (r".*\.attn\.c_proj", r".*\.mlp\.c_proj"),
    "t5": (r".*\.(SelfAttention|EncDecAttention)\.o", r".*\.DenseReluDense\.wo"),
    "llama": (r".*\.self_attn\.o_proj", r".*\.mlp\.down_proj"),
    "mistral": (r".*\.self_attn\.o_proj", r".*\.mlp\.down_proj"),
    "qwen2": (r".*\.self_attn\.o_proj", r".*\.mlp\.down_proj"),
}


@dataclass
class BottleneckConfig(PeftConfig):
    """A bottleneck adapter: x + scaling * up(activation(down(x))), two small layers with a skip around them.

    Args:
        kind: houlsby, after attention and after the feed-forward (Houlsby et al. 2019, section 2.1); pfeiffer, after
            the feed-forward alone (Pfeiffer et al. 2021, section 3.2).
        bottleneck_dim: the width between both layers; None: the sub-layer's width divided by `reduction_factor`.
        reduction_factor: Pfeiffer et al. use 16.
        activation: a name of transformers' ACT2FN.
        scaling: factor of the adapter's output; He et al. 2022, section 4.5, use 4 for large models.
        dropout: probability, between activation and up projection.
        init_std: standard deviation of the down projection at the start. The up projection starts at zero, so that a
            fresh adapter equals its base, where Houlsby et al. start both near zero.
        target_modules: a regular expression or names of modules; None: the places of the model's family.
        modules_to_save: modules that train whole and are saved with the adapter, as a head.
    """

    kind: str = "houlsby"
    bottleneck_dim: int | None = None
    reduction_factor: int = 16
    activation: str = "gelu"
    scaling: float = 1.0
    dropout: float = 0.0
    init_std: float = 0.02
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.BOTTLENECK  # type: ignore[attr-defined]
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind} is none of {', '.join(KINDS)}")
        if isinstance(self.target_modules, list):
            self.target_modules = sorted(self.target_modules)

    def places(self, model_type: str) -> str:
        """Return the regular expression of the modules that get an adapter.

        Raises:
            ValueError: nothing is known of the family, and the user named no modules.
        """
        known = model_type.removeprefix("mean_pooling_")
        if known not in PLACES:
            raise ValueError(
                f"adapters know their places in {', '.join(PLACES)}, not in {model_type}; "
                "set target_modules to the output projections of attention and feed-forward"
            )
        attention, feed_forward = PLACES[known]
        return f"{attention}|{feed_forward}" if self.kind == "houlsby" else feed_forward
