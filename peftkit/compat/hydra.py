"""Hydra's sweeps."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def composed_at_launch() -> Iterator[None]:
    """Let Hydra's own sweeper compose a run when it starts only, not all of them once more before the first.

    A composition takes 0.1 s; the command was validated before.
    """
    from hydra.core.plugins import Plugins

    Plugins.instance()  # imports the modules of all plugins anew
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    BasicSweeper.validate_batch_is_legal = lambda self, batch: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del BasicSweeper.validate_batch_is_legal  # which shows that of its base class
