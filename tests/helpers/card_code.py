"""Runs the Python code of model cards in one process, where peftkit cannot be imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PROGRAM = """
import json, os, sys
sys.modules["peftkit"] = None
for line in sys.stdin.read().splitlines():  # all: transformers may wait for an answer on stdin
    request = json.loads(line)
    os.chdir(request["folder"])
    names = {"__name__": "card"}
    exec(compile(request["code"], "card", "exec"), names)
    found = names["predict"](request["inputs"])
    print("found:", json.dumps(found.tolist() if hasattr(found, "tolist") else found), flush=True)
"""


def code_of(card: Path) -> str:
    """Return the Python code of a card."""
    found = re.search(r"^```python\n(.*?)\n```$", card.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def bare_environment(folder: Path, *packages: str) -> str:
    """Return the Python of a new virtual environment that has links to packages, and to what they require, alone."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/*/site-packages")
    missing, found = [*packages], set()
    while missing:
        package = distribution(missing.pop())
        if package.name not in found:
            found.add(package.name)
            needs = [Requirement(each) for each in package.requires or ()]
            missing += [each.name for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]
            for name in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
                if not (site / name).exists():
                    (site / name).symlink_to(Path(str(package.locate_file(name))))
    return str(folder / "bin" / "python")


def predictions(cases: list[tuple[Path, list[Any]]], python: str = sys.executable, **environment: str) -> list[Any]:
    """Return what `predict` of each card returns for its inputs; the code runs in the folder of the card."""
    lines = [
        json.dumps({"folder": str(card.parent), "code": code_of(card), "inputs": inputs}) + "\n"
        for card, inputs in cases
    ]
    done = subprocess.run(
        [python, "-I", "-c", PROGRAM], input="".join(lines), capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = [line.removeprefix("found: ") for line in done.stdout.splitlines() if line.startswith("found: ")]
    assert len(found) == len(cases), done.stderr[-3000:]
    return [json.loads(line) for line in found]
