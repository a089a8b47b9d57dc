"""Write models, adapter weights and outputs of the `adapters` library to FILE, for peftkit to reproduce.

Run by a Python that has adapters==1.3.0: python adapters_reference.py FILE
"""

from __future__ import annotations

import sys
from typing import Any

import adapters
import torch
from adapters import (
    DoubleSeqBnConfig,
    LoRAConfig,
    MAMConfig,
    ParBnConfig,
    PrefixTuningConfig,
    SeqBnConfig,
    UniPELTConfig,
)

from helpers.shared_models import MODELS, hidden_states

KINDS = {
    # our Houlsby adapters stand after T5's cross-attention too, as one does after each sub-layer
    "houlsby": DoubleSeqBnConfig(reduction_factor=8, cross_adapter=True),
    "pfeiffer": SeqBnConfig(reduction_factor=8),
    "parallel": ParBnConfig(reduction_factor=8),
    "mam": MAMConfig(PrefixTuningConfig(flat=True, prefix_length=3), ParBnConfig(reduction_factor=8)),
    "unipelt": UniPELTConfig(
        PrefixTuningConfig(flat=True, prefix_length=3), SeqBnConfig(reduction_factor=8), LoRAConfig(r=4)
    ),
}
MIXES = ("mam", "unipelt")


def reference(name: str, kind: str) -> dict[str, Any]:
    """Return a cell's base and adapter weights, all random, and the hidden states that they give."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    if name in ("gpt2", "llama"):
        # with sdpa the library leaves causality to torch, which then aligns it as if the prefix were the first tokens
        model.set_attn_implementation("eager")
    with torch.no_grad():
        for weight in model.parameters():  # so that layer norms and biases count
            weight.add_(torch.randn_like(weight) * 0.1)
        for key, weight in model.named_parameters():
            # T5's distances, from which the library counts a prefix as tokens before the text; ours is at none
            if kind in MIXES and "relative_attention_bias" in key:
                weight.zero_()
        base = {key: weight.clone() for key, weight in model.state_dict().items()}
        plain = hidden_states(model, name)
        adapters.init(model)
        model.add_adapter("one", config=KINDS[kind])
        model.set_active_adapters("one")
        model.eval()
        weights = {key: weight for key, weight in model.named_parameters() if ".one." in key}
        for weight in weights.values():
            weight.copy_(torch.randn_like(weight) * 0.3)
        config = KINDS[kind].configs[1] if kind in MIXES else KINDS[kind]  # a mix's second part is its adapter
        return {
            "base": base,
            "weights": {key: weight.clone() for key, weight in weights.items()},
            "plain": plain,
            "output": hidden_states(model, name),
            "scaling": config.scaling,
            "activation": {"swish": "silu"}.get(config.non_linearity, config.non_linearity),
        }


if __name__ == "__main__":
    torch.save({(name, kind): reference(name, kind) for name in MODELS for kind in KINDS}, sys.argv[1])
