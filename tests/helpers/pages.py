"""The steps of a page of the documentation: files to write and commands to type, marked by comments."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STEP = re.compile(
    r"<!-- (?P<kind>new|append|insert|run)(?:: (?P<file>\S+))?(?: before: (?P<anchor>.+?))? -->\n"
    r"```\w*\n(?P<text>.*?)```",
    re.DOTALL,
)


@dataclass(frozen=True)
class Step:
    kind: str  # new file, text at its end, insertion before a line of a file, or commands
    file: str
    anchor: str
    text: str


def steps_of(text: str) -> list[Step]:
    """Return the steps of a page, or of a part of one."""
    return [Step(m["kind"], m["file"] or "", m["anchor"] or "", m["text"]) for m in STEP.finditer(text)]


def write_files(steps: Sequence[Step], folder: Path) -> set[str]:
    """Write the files of these steps below a folder, and return their names."""
    files = [step for step in steps if step.kind != "run"]
    for step in files:
        file = folder / step.file
        if step.kind == "new":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(step.text, encoding="utf-8")
        elif step.kind == "append":
            file.write_text(file.read_text(encoding="utf-8") + step.text, encoding="utf-8")
        else:
            before, anchor, after = file.read_text(encoding="utf-8").partition(step.anchor.replace("\\n", "\n"))
            assert anchor, f"{step.file} has no line {step.anchor!r}"
            file.write_text(before + step.text + anchor + after, encoding="utf-8")
    return {step.file for step in files}


def commands_of(steps: Sequence[Step]) -> list[str]:
    return [line for step in steps if step.kind == "run" for line in step.text.strip().splitlines()]


def run_command(
    command: str, folder: Path, checkpoint: Path, package: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a page's command in a folder, on a tiny checkpoint, without a network.

    `package` is the folder with the package, where it is not that folder.
    """
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "peftkit"]
    small = [
        f"model.checkpoint={checkpoint}", "source=offline", "task.max_train_samples=24", "task.max_eval_samples=12",
        "train.num_train_epochs=1", "train.per_device_train_batch_size=8", "train.disable_tqdm=true",
    ]  # fmt: skip
    chosen = words[3:] if "job=" in command else [*words[3:], *small]  # a job has keys of its own
    environment = {**os.environ, "PYTHONPATH": str(package or folder), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "peftkit", *chosen], cwd=folder, env=environment, capture_output=True, text=True
    )
