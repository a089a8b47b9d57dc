"""Our bottleneck adapters compute what the `adapters` library computes with the same weights.

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

import pytest
import torch
from peft import get_peft_model
from shared_models import MODELS, hidden_states

from peftkit.methods.adapter import BottleneckConfig

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    folder = tmp_path_factory.mktemp("adapters")
    python = os.environ.get("PEFTKIT_ADAPTERS_PYTHON")
    if python is None:
        python = str(folder / "venv/bin/python")
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "adapters==1.3.0", f"torch=={torch.__version__}"], check=True
        )
    subprocess.run([python, str(HERE / "adapters_reference.py"), str(folder / "reference.pt")], check=True)
    found: dict[tuple[str, str], Any] = torch.load(folder / "reference.pt", weights_only=False)
    return found


@pytest.mark.parametrize("kind", ["houlsby", "pfeiffer", "parallel"])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_equal_those_of_the_adapters_library(reference: dict[Any, Any], name: str, kind: str) -> None:
    cell = reference[name, kind]
    model = MODELS[name]().eval()
    model.load_state_dict(cell["base"])
    config = BottleneckConfig(kind=kind, reduction_factor=8, activation=cell["activation"], scaling=cell["scaling"])
    ours = get_peft_model(model, config).eval()
    theirs = {_place(key): weight for key, weight in cell["weights"].items()}
    mine = {_place(key): weight for key, weight in ours.named_parameters() if "bottleneck_" in key}
    assert mine.keys() == theirs.keys() and len(theirs) == len(cell["weights"])
    with torch.no_grad():
        for place, weight in mine.items():
            weight.copy_(theirs[place])
    output = hidden_states(ours, name)
    torch.testing.assert_close(output, cell["output"], rtol=0, atol=1e-5)
    assert (output - cell["plain"]).abs().max() > 0.5


def _place(key: str) -> tuple[bool, int, int, str, str]:
    """Return what a weight's name means in either library: its stack, layer, sub-layer, projection, and kind."""
    layer = int(re.findall(r"\.(\d+)\.", key)[0])
    t5 = re.search(r"block\.\d+\.layer\.(\d)", key)
    part = int(t5[1]) if t5 else int(not re.search(r"attention|attn", key))
    projection = "down" if "_down" in key else "up"
    return "decoder.block" in key, layer, part, projection, key.rpartition(".")[2]
