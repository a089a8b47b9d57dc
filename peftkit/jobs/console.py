"""Turn what several processes have to say into one voice."""

from __future__ import annotations

import os
import sys


def is_main() -> bool:
    """Tell whether this process is the one that writes, under torchrun or accelerate launch."""
    return int(os.environ.get("RANK", "0")) == 0


def say(text: str) -> None:
    """Print a line to stderr, once for all processes; stdout is for tables and predictions."""
    if is_main():
        print(text, file=sys.stderr, flush=True)
