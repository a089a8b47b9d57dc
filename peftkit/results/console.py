"""Turn what several processes have to say into one voice."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

TOLD_EVERY = 10.0  # seconds


def is_main_process() -> bool:
    """Tell whether this process is the one that writes, under torchrun or accelerate launch."""
    return int(os.environ.get("RANK", "0")) == 0


def log(text: str) -> None:
    """Print a line to stderr, once for all processes; stdout is for tables and predictions."""
    if is_main_process():
        print(text, file=sys.stderr, flush=True)


def progress_logger(text: Callable[..., str]) -> Callable[..., None]:
    """Return what says how far something is, at most every ten seconds; `text` gets what it is called with."""
    last = time.monotonic()

    def tell(*state: int) -> None:
        nonlocal last
        if time.monotonic() - last >= TOLD_EVERY:
            last = time.monotonic()
            log(f"   {text(*state)}")

    return tell
