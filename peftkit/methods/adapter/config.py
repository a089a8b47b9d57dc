"""The config of bottleneck adapters, which PEFT saves and loads."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftConfig
from transformers.activations import ACT2FN

from peftkit.compat.peft import peft_type
from peftkit.config.families import family_of

KINDS = ("houlsby", "pfeiffer", "parallel")


@dataclass
class BottleneckConfig(PeftConfig):
    """A bottleneck adapter: scaling * up(activation(down(x))), two small layers whose output is added to a sub-layer's.

    Args:
        kind: houlsby, behind attention and behind the feed-forward, before residual and layer norm (Houlsby et al.
            2019, section 2.1; they train the layer norms too, in BERT modules_to_save=["LayerNorm"]); pfeiffer, behind
            the feed-forward alone, reading the output of residual and layer norm (Pfeiffer et al. 2021, figure 5);
            parallel, beside the feed-forward, reading its residual (He et al. 2022, table 1).
        bottleneck_dim: the width between both layers; None: the sub-layer's width divided by `reduction_factor`.
        reduction_factor: used where `bottleneck_dim` is None.
        activation: a name of transformers' ACT2FN.
        scaling: factor of the adapter's output; He et al. 2022 use 4 for their scaled parallel adapter.
        dropout: probability, between activation and up projection.
        init_std: standard deviation of the down projection at the start. The up projection starts at zero, so that a
            fresh adapter equals its base, where Houlsby et al. start both near zero and so only near the base.
        layers: indices of the layers that get adapters; AdapterDrop leaves out the lower ones (Rücklé et al. 2021). In
            T5 encoder and decoder each count from 0. None: all layers.
        target_modules: a regular expression or names of modules; None: those of the model's family.
        exclude_modules: modules that get no adapter although they are targets.
        modules_to_save: modules that train whole and are saved with the adapter, such as a head.
        trainable_token_indices: ids of tokens whose embedding rows train and are saved, or such ids by the name of the
            layer; the other rows stay unchanged.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: str = "houlsby"
    bottleneck_dim: int | None = None
    reduction_factor: int = 16
    activation: str = "gelu"
    scaling: float = 1.0
    dropout: float = 0.0
    init_std: float = 1e-2
    layers: list[int] | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("BOTTLENECK")
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind} is unknown; choose one of {', '.join(KINDS)}")
        if self.activation not in ACT2FN:
            raise ValueError(f"activation={self.activation} is unknown; choose one of {', '.join(sorted(ACT2FN))}")
        if self.bottleneck_dim is not None and self.bottleneck_dim < 1:
            raise ValueError(f"bottleneck_dim={self.bottleneck_dim} leaves no adapter; set 1 or more")
        if self.reduction_factor < 1:
            raise ValueError(f"reduction_factor={self.reduction_factor} divides the width; set 1 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} is a probability; set it in [0, 1)")
        if self.init_std <= 0:  # with both projections at zero, neither would get a gradient
            raise ValueError(f"init_std={self.init_std} keeps the adapter from learning; set it above 0")
        # sorted, so that equivalent configs are saved alike
        if self.layers is not None:
            self.layers = sorted(self.layers)
        if self.target_modules is not None and not isinstance(self.target_modules, str):
            self.target_modules = sorted(self.target_modules)

    def places(self, model_type: str) -> str:
        """Return the regular expression of the modules that get an adapter.

        Raises:
            ValueError: there is no record of the family: the user must name the modules.
        """
        family = family_of(model_type)
        if family is None:
            raise ValueError(
                f"peftkit knows no modules for adapters in {model_type}; set target_modules=[...] "
                "to the modules to adapt, such as the output projections of attention and feed-forward"
            )
        return family.modules.of_adapter(self.kind)
