"""What job=bench measures: plain scripts beside peftkit, and the means that make peftkit fast, each switched alone."""

from dataclasses import dataclass
from typing import Any

PEFTKIT = "peftkit"


@dataclass(frozen=True)
class Variant:
    """A way to train. The settings of a plain script are None for peftkit.

    Args:
        precision: fp32, or auto: bf16 where the machine supports it.
        is_slow: whether it takes several times as long as the others, and is measured with fewer seeds.
        overrides: added to peftkit's command.
    """

    name: str
    title: str
    padding: str = "longest"
    sampling: str = "random"
    precision: str = "fp32"
    is_loop: bool = False
    is_slow: bool = False
    overrides: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        return self.name != PEFTKIT and not self.overrides

    def spec(self, precision: str, attention: str | None = None) -> dict[str, Any]:
        """Return the settings of the plain script, given peftkit's precision and the attention of the loop."""
        return {
            "padding": self.padding,
            "sampling": self.sampling,
            "precision": precision if self.precision == "auto" else self.precision,
            "loop": self.is_loop,
            **({"attention": attention} if self.is_loop and attention else {}),
        }


VARIANTS = {
    each.name: each
    for each in (
        Variant(
            "run_glue", "HF Trainer as in run_glue.py: padded to the limit, fp32", padding="max_length", is_slow=True
        ),
        Variant("dynamic_padding", "HF Trainer, padded to the longest of the batch, fp32", is_slow=True),
        Variant(
            "trainer", "HF Trainer, batches of similar length, mixed precision", sampling="group_by_length",
            precision="auto",
        ),
        Variant(
            "loop", "bare PyTorch loop over peftkit's batches, mixed precision, fused AdamW",
            sampling="group_by_length", precision="auto", is_loop=True,
        ),
        Variant(PEFTKIT, "the command that you would type", precision="auto"),
    )
}  # fmt: skip
PLAIN = [name for name, variant in VARIANTS.items() if variant.is_plain]


@dataclass(frozen=True)
class Means:
    """A means that makes training fast, and the overrides that switch it alone: off if it is on by default."""

    name: str
    overrides: tuple[str, ...]
    is_default: bool = True
    precision: str = "auto"  # with the overrides

    @property
    def variant(self) -> Variant:
        switched = f"without {self.name}" if self.is_default else f"with {self.name}"
        return Variant(
            f"{PEFTKIT} {switched}", f"peftkit {switched}", precision=self.precision, overrides=self.overrides
        )


LADDER = (  # a further means is one line
    Means("batches of similar length", ("train.train_sampling_strategy=random",)),
    Means("batches of equal tokens", ("train.train_sampling_strategy=token_budget",), is_default=False),
    Means("mixed precision", ("train.bf16=false",), precision="fp32"),
    Means("fused AdamW", ("train.optim=adamw_torch",)),
    Means("eager attention", ("model.attn_implementation=sdpa",)),
)
