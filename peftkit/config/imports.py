"""The imports of a process of peftkit's own: quick, silent, and left out of later garbage collections."""

import gc
import logging
import os
import sys

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # how OpenMP's idle threads wait
SPINS = "10000"  # instead of libgomp's 300,000


def start_imports() -> None:
    """Limit spinning, and switch garbage collection off, which takes a quarter of the imports' time.

    bitsandbytes recommends a faster 4-bit kernel when it is imported, even if the run needs none; this is not shown.
    """
    limit_spinning()
    gc.disable()
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def limit_spinning() -> None:
    """Let OpenMP's idle threads sleep sooner, since they keep the cores from other processes, unless the user set it.

    libgomp reads it when torch loads it, so nothing changes where torch is imported already.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def end_imports() -> None:
    """Leave what was imported out of the garbage collections that a run starts at every stage."""
    gc.freeze()
    gc.enable()
