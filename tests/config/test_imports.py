"""What a process of peftkit's own sets before it imports the libraries."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from peftkit.config import imports

PROGRAM = """
from peftkit.config.imports import start_imports
start_imports()
import torch
weights = torch.ones(1 << 24)
address, flags = None, None
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        first, last = (int(each, 16) for each in line.split()[0].split("-"))
        is_here = first <= weights.data_ptr() < last
    elif line.startswith("VmFlags") and is_here:
        print("hg" in line.split())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
@pytest.mark.parametrize(("given", "is_huge"), [(None, True), ("0", False)])
def test_torch_asks_for_huge_pages_unless_the_user_decides(given: str | None, is_huge: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != imports.HUGE_PAGES}
    environment |= {} if given is None else {imports.HUGE_PAGES: given}
    command = [sys.executable, "-c", PROGRAM]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert found == [str(is_huge)]


def test_other_programs_inherit_what_the_user_set_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_SET_HERE", {imports.HUGE_PAGES})
    monkeypatch.setenv(imports.HUGE_PAGES, "1")
    monkeypatch.setenv("MINE", "1")
    assert imports.HUGE_PAGES not in imports.inherited_environment() and "MINE" in imports.inherited_environment()
