"""Console output of one or several processes: messages on stderr, from the main process alone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

PROGRESS_EVERY = 10.0  # seconds


def is_main_process() -> bool:
    """Return whether this process is the one that writes, under torchrun or accelerate launch."""
    return int(os.environ.get("RANK", "0")) == 0


def log(text: str) -> None:
    """Print a line to stderr, once for all processes; stdout is for tables and predictions."""
    if is_main_process():
        print(text, file=sys.stderr, flush=True)


def progress_logger(describe: Callable[..., str]) -> Callable[..., None]:
    """Return a function that logs `describe(*state)`, at most every ten seconds."""
    last = time.monotonic()

    def log_progress(*state: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_EVERY:
            last = time.monotonic()
            log(f"   {describe(*state)}")

    return log_progress
