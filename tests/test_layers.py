"""Imports point down only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from peftkit.paths import PACKAGE

FREE = {"config", "paths"}  # anyone may import them
PARTS = {"data", "models", "methods", "metrics", "compat"}  # below the stages
MIDDLE = {"training", "generation", "results", "leaderboard"}
ALLOWED = {
    "": {"api"} | FREE, "__main__": {"cli"}, "cli": {"api", "jobs", "compat"} | FREE, "api": {"cli", "jobs", "pipeline", "results", "leaderboard"} | FREE,
    "jobs": {"pipeline"} | MIDDLE | PARTS | FREE, "pipeline": MIDDLE | PARTS | FREE,
    **dict.fromkeys(MIDDLE, PARTS | FREE), **dict.fromkeys(PARTS, FREE | {"compat"}), **dict.fromkeys(FREE, FREE),
    "compat": set(),
}  # fmt: skip
HEAVY = {"torch", "transformers", "peft", "datasets", "sklearn", "pandas"}
LIGHT = {"", "__main__", "cli", "api", *FREE}


def violations(package: Path) -> list[str]:
    found = []
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        own = "" if parts == ("__init__",) else parts[0]
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            for name in names(node):
                top, _, rest = name.partition(".")
                other = rest.split(".")[0]
                if top == "peftkit" and other and other != own and other not in ALLOWED[own]:
                    found.append(f"{file.name} imports {name}")
                if top in ("hydra", "omegaconf") and own not in {"cli", "api", "jobs", "pipeline", "compat", *FREE}:
                    found.append(f"{file.name} imports {name}, which is for cli and jobs")
        is_light = own in LIGHT or parts == ("jobs", "__init__")
        for node in tree.body if is_light else []:
            found += [f"{file.name} loads {name} at import" for name in names(node) if name.split(".")[0] in HEAVY]
    return found


def names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        if node.module == "peftkit":
            return [f"peftkit.{alias.name}" for alias in node.names if not alias.name.startswith("_")]
        return [node.module]
    return []


def test_imports_point_down_only() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [("data/datasets.py", "import peftkit.jobs"), ("methods/peft.py", "import omegaconf"), ("cli.py", "import torch")],
)
def test_the_check_sees_a_planted_fault(tmp_path: Path, file: str, line: str) -> None:
    target = tmp_path / file
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(line + "\n")
    assert len(violations(tmp_path)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "from peftkit.models import heads",
        "from peftkit.jobs import push",
        "from peftkit.methods.adapter import BottleneckConfig",
        "from peft import PeftModel; import peftkit",
        "import peftkit; from transformers import Trainer",
        "import peftkit; from transformers import T5EncoderModel",
        "import peftkit; from transformers import BertModel",
        "import peftkit; from transformers import LlamaModel",
        "import peftkit; from transformers import AutoModelForSequenceClassification",
        "from transformers import AutoModelForSequenceClassification; import peftkit",
    ],
)
def test_peft_and_transformers_load_our_classes_whatever_is_imported_first(first: str) -> None:
    code = (
        f"{first}; from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known; import peftkit; "
        "from transformers import AutoModelForSequenceClassification as Auto, CONFIG_MAPPING as configs; "
        "assert {'BOTTLENECK', 'SOFT_PROMPT', 'MIX', 'LAYER_MIX'} <= set(known); "
        "Auto.from_config(configs['mean_pooling_bert'](num_hidden_layers=1, vocab_size=8))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
