"""A run in a terminal shows bars with the time left; without one its output has no control characters."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

Overrides = Callable[..., list[str]]
LONG = ("task=sst2", "train.max_steps=400", "task.max_eval_samples=100", "train.disable_tqdm=false")


@pytest.mark.slow
def test_a_terminal_shows_bars_and_the_time_left(tiny: Overrides) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "peftkit", "-m", *tiny("bert", *LONG, "seed=0,1")])
    output = b""
    try:
        while part := os.read(terminal, 4096):
            output += part
    except OSError:  # the end of a pseudo-terminal
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, output.decode()
    text = output.decode()
    assert "importing the libraries" in text
    assert re.search(r"training +\d+%\|.*\| \d+/\d+ \[\d\d:\d\d<\d\d:\d\d, ", text), text[-4000:]
    assert "[1/2] sst2 · lora · seed 0\r\n" in text
    assert re.search(r"\[2/2\] sst2 · lora · seed 1 · about [\w ]+ left", text)


@pytest.mark.slow
def test_without_a_terminal_no_character_controls_it(tiny: Overrides) -> None:
    command = [sys.executable, "-m", "peftkit", *tiny("bert", *LONG)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(line.isprintable() for line in (done.stdout + done.stderr).split("\n"))
    assert "next: python -m peftkit job=predict run=" in done.stderr
