"""Load weights of the `adapters` library into peftkit's bottleneck adapters and mixes, and measure the difference.

The library pins an older transformers, so it runs in an environment of its own: PEFTKIT_ADAPTERS_PYTHON names its
Python, else one is made by pip.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from helpers.shared_models import MODELS, hidden_states
from peftkit.methods.adapter import BottleneckConfig
from peftkit.methods.mix import MixConfig

HERE = Path(__file__).parent
KINDS = ("houlsby", "pfeiffer", "parallel")
MIXES: dict[str, dict[str, Any]] = {"mam": {}, "unipelt": {"kind": "pfeiffer", "rank": 4, "gated": True}}
# a causal stack's gates are each token's own here and means over all tokens there, see MixConfig
CELLS = [(name, kind) for name in MODELS for kind in (*KINDS, "mam")]
CELLS += [(name, "unipelt") for name in ("bert", "roberta", "distilbert")]
Cells = dict[tuple[str, str], dict[str, Any]]  # by family and kind


def reference(folder: Path) -> Cells:
    """Return the library's weights and hidden states of every family and kind."""
    python = os.environ.get("PEFTKIT_ADAPTERS_PYTHON")
    if python is None:
        python = str(folder / "venv/bin/python")
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "adapters==1.3.0", f"torch=={torch.__version__}"], check=True
        )
    subprocess.run([python, str(HERE / "adapters_reference.py"), str(folder / "reference.pt")], check=True)
    found: Cells = torch.load(folder / "reference.pt", weights_only=False)
    return found


def difference(cells: Cells, name: str, kind: str) -> dict[str, float]:
    """Return the largest difference of hidden states; `moved` is what the library's adapters do to the base's."""
    cell = cells[name, kind]
    model = MODELS[name]().eval()
    model.load_state_dict(cell["base"])
    settings = {"reduction_factor": 8, "activation": cell["activation"], "scaling": cell["scaling"]}
    if kind in MIXES:
        config: Any = MixConfig(num_virtual_tokens=3, **settings, **MIXES[kind])
    else:
        config = BottleneckConfig(kind=kind, **settings)
    ours = get_peft_model(model, config).eval()
    mine = dict(ours.named_parameters())
    theirs = {_place(key): weight for key, weight in cell["weights"].items() if "prefix" not in key}
    parts = {_place(key): weight for key, weight in mine.items() if "bottleneck_" in key}
    assert parts.keys() == theirs.keys()
    assert len(theirs) == sum("prefix" not in key for key in cell["weights"])
    with torch.no_grad():
        for place, weight in parts.items():
            weight.copy_(theirs[place])
        for key, weight in mine.items():
            if "soft_prompt_" in key:
                weight.copy_(_prefix(cell["weights"], key))
    return {
        "states": float((hidden_states(ours, name) - cell["output"]).abs().max()),
        "moved": float((cell["output"] - cell["plain"]).abs().max()),
    }


def _prefix(weights: dict[str, torch.Tensor], ours: str) -> torch.Tensor:
    """Return what the library names its prefix, or the gates before it, as ours has them: all attentions in one."""
    if "gate" in ours:
        kind = ours.rpartition(".")[2]
        return torch.cat([weight for key, weight in weights.items() if "prefix_gates" in key and key.endswith(kind)])
    vectors = {re.findall(r"one\.(\w+)", key)[0]: w for key, w in weights.items() if "control_trans" in key}
    if len(vectors) == 1:
        return next(iter(vectors.values())).view(3, -1)
    if "encoder" in ours:
        return vectors["encoder_prefix"].view(3, -1)
    # T5's decoder has two attentions a layer
    return torch.stack([vectors[f"{where}_prefix"].view(3, 2, -1) for where in ("self", "cross")], dim=2).flatten(1)


def _place(key: str) -> tuple[bool, int, int, str, str, str]:
    """Return what a weight's name means in either library: stack, layer, sub-layer, projection, and the weight's own."""
    layer = int(re.findall(r"\.(\d+)\.", key)[0])
    t5 = re.search(r"block\.\d+\.layer\.(\d)", key)
    part = int(t5[1]) if t5 else int(not re.search(r"attention|attn", key))
    low_rank = re.search(r"\.(query|value|q_lin|v_lin)\.", key)
    role = "down" if re.search("_down|lora_A", key) else "gate" if "gate" in key else "up"
    kind = "bias" if key.endswith("bias") else "weight"
    return "decoder.block" in key, layer, part, low_rank[1] if low_rank else "", role, kind
