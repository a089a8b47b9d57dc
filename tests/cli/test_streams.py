"""Closed streams, ended pipes, full disks and odd encodings: no traceback, and the usual exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PEFTKIT = f"PYTHONPATH={Path(__file__).parents[2]} {sys.executable} -m peftkit"
COMMANDS = {  # what the shell runs: exit code, and text of stderr
    f"{PEFTKIT} --help | head -n 1; exit ${{PIPESTATUS[0]}}": (0, ""),
    f"{PEFTKIT} --help >&-": (0, ""),
    f"{PEFTKIT} --help <&-": (0, ""),
    f"{PEFTKIT} --help >/dev/full": (2, "No space left on device"),
    f"{PEFTKIT} task=nothing 2>&-": (2, ""),
    f"LC_ALL=C PYTHONIOENCODING=ascii {PEFTKIT} task=smörgås": (2, "unknown task=sm\\xf6rg\\xe5s"),
    f"LC_ALL=tr_TR.UTF-8 {PEFTKIT} TASK=sst2": (2, "unknown key TASK"),
    f"{PEFTKIT} task=$'\\xff'": (2, "argument 1"),
    f"mkdir gone; cd gone; rmdir ../gone; {PEFTKIT} --help": (2, "the working folder does not exist any more"),
}


@pytest.mark.parametrize(("command", "expected"), COMMANDS.items(), ids=range(len(COMMANDS)))
def test_streams_and_encodings(command: str, expected: tuple[int, str], tmp_path: Path) -> None:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    code, message = expected
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stderr and done.stderr.count("\n") <= 1
