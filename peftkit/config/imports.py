"""The imports of a process of peftkit's own: quick, silent, and left out of later garbage collections."""

import gc
import logging
import os

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch reads it when it first allocates memory on the CPU
_SET_HERE: set[str] = set()


def start_imports() -> None:
    """Switch garbage collection off, which takes a quarter of the imports' time, and huge pages of memory on.

    A training step frees and allocates its gradients and activations anew; with pages of 2 MB the system has fewer of
    them to map. A setting of the user's own stays.

    bitsandbytes recommends a faster 4-bit kernel when it is imported, even if the run needs none; this is not shown.
    """
    gc.disable()
    if HUGE_PAGES not in os.environ:
        os.environ[HUGE_PAGES] = "1"
        _SET_HERE.add(HUGE_PAGES)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def end_imports() -> None:
    """Leave what was imported out of the garbage collections that a run starts at every stage."""
    gc.freeze()
    gc.enable()


def inherited_environment() -> dict[str, str]:
    """Return the variables of the environment without those that `start_imports` has set, for other programs."""
    return {name: value for name, value in os.environ.items() if name not in _SET_HERE}
