"""The imports of a process of peftkit's own: quick, silent, and left out of later garbage collections."""

import gc
import logging


def start_imports() -> None:
    """Switch garbage collection off, which takes a quarter of the imports' time.

    bitsandbytes recommends a faster 4-bit kernel when it is imported, even if the run needs none; this is not shown.
    """
    gc.disable()
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def end_imports() -> None:
    """Leave what was imported out of the garbage collections that a run starts at every stage."""
    gc.freeze()
    gc.enable()
