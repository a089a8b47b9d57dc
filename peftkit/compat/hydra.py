"""Hydra's compositions and sweeps."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import OmegaConf


def share_config_store() -> None:
    """Let all compositions read the one store of registered files, which Hydra copies for each: a sixth of its time."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]


@contextmanager
def composed_at_launch() -> Iterator[None]:
    """Let Hydra's own sweeper compose a run when it starts only, not all of them once more before the first.

    A composition takes 0.1 s; the command was validated before. The sweeper writes no multirun.yaml either, which needs
    a folder that can be written also where all runs are finished.
    """
    from hydra.core.plugins import Plugins

    Plugins.instance()  # imports the modules of all plugins anew
    from hydra._internal.core_plugins import basic_sweeper
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    class Unsaved(OmegaConf):
        @staticmethod
        def save(*_: Any, **__: Any) -> None:
            """Write nothing."""

    basic_sweeper.OmegaConf = Unsaved  # type: ignore[misc]
    BasicSweeper.validate_batch_is_legal = lambda self, batch: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        basic_sweeper.OmegaConf = OmegaConf  # type: ignore[misc]
        del BasicSweeper.validate_batch_is_legal  # which shows that of its base class
